//! Where a credential may go: the small patterns of its binding.

use std::net::IpAddr;

use super::error::Fault;

/// Hosts, ports, methods and paths that a credential is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) hosts: Vec<HostPattern>,
    pub(super) ports: Vec<u16>,
    /// Empty is every method.
    pub(super) methods: Vec<String>,
    /// Empty is every path.
    pub(super) paths: Vec<PathPattern>,
}

impl Binding {
    /// `host` and `path` in canonical form.
    pub(super) fn admits(&self, host: &str, port: u16, method: &str, path: &str) -> bool {
        self.hosts.iter().any(|pattern| pattern.matches(host))
            && self.ports.contains(&port)
            && (self.methods.is_empty() || self.methods.iter().any(|listed| listed == method))
            && (self.paths.is_empty() || self.paths.iter().any(|pattern| pattern.matches(path)))
    }
}

/// `x`, `*.x` or `**.x`; the base is lower case without a final dot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum HostPattern {
    Exact(String),
    OneLabel(String),
    AnyDepth(String),
}

impl HostPattern {
    pub(super) fn parse(raw: &str) -> Result<Self, Fault> {
        let bad = || Fault::Host(raw.to_owned());
        let (wildcard, base) = match raw.split_once("*.") {
            Some(("", base)) => (Some(Self::OneLabel as fn(String) -> Self), base),
            Some(("*", base)) => (Some(Self::AnyDepth as fn(String) -> Self), base),
            Some(_) => return Err(bad()),
            None => (None, raw),
        };
        if let (None, Ok(address)) = (wildcard, base.trim_matches(['[', ']']).parse::<IpAddr>()) {
            // As a host prints: an IPv6 address in brackets.
            return Ok(Self::Exact(match address.to_canonical() {
                IpAddr::V6(v6) => format!("[{v6}]"),
                IpAddr::V4(v4) => v4.to_string(),
            }));
        }
        let base = base.strip_suffix('.').unwrap_or(base).to_ascii_lowercase();
        if base.len() > 253 || !base.split('.').all(is_label) || ends_in_number(&base) {
            return Err(bad());
        }
        let Some(wildcard) = wildcard else {
            return Ok(Self::Exact(base));
        };
        let probe = format!("any.{base}");
        if [base.as_str(), &probe].into_iter().any(|name| psl::suffix_str(name) == Some(name)) {
            return Err(Fault::PublicSuffix(raw.to_owned()));
        }
        Ok(wildcard(base))
    }

    fn matches(&self, host: &str) -> bool {
        let below = |base: &str| host.strip_suffix(base).and_then(|labels| labels.strip_suffix('.'));
        match self {
            Self::Exact(wanted) => wanted == host,
            Self::OneLabel(base) => {
                below(base).is_some_and(|label| !label.is_empty() && !label.contains('.'))
            }
            Self::AnyDepth(base) => below(base).is_some_and(|labels| !labels.is_empty()),
        }
    }
}

fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (1..=63).contains(&label.len())
        && label.bytes().all(inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Such a text is an address in some spelling, never a name.
fn ends_in_number(base: &str) -> bool {
    let last = base.rsplit('.').next().unwrap_or(base);
    last.strip_prefix("0x").map_or_else(
        || last.bytes().all(|b| b.is_ascii_digit()),
        |digits| digits.bytes().all(|b| b.is_ascii_hexdigit()),
    )
}

/// Whole segments; `*` is one, `**` any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PathPattern(Vec<String>);

impl PathPattern {
    pub(super) fn parse(raw: &str) -> Result<Self, Fault> {
        let bad = || Fault::Path(raw.to_owned());
        let segments: Vec<String> =
            raw.strip_prefix('/').ok_or_else(bad)?.split('/').map(str::to_owned).collect();
        let last = segments.len() - 1;
        let valid = |(index, segment): (usize, &String)| match segment.as_str() {
            "*" | "**" => true,
            "" => index == last,
            "." | ".." => false,
            text => text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()+,;=:@".contains(&b)),
        };
        if raw.len() <= 1024 && segments.iter().enumerate().all(valid) {
            Ok(Self(segments))
        } else {
            Err(bad())
        }
    }

    fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else {
            return false;
        };
        // Which prefixes of the pattern match the segments read so far: linear in the product, whatever `**` does.
        let mut reached = vec![false; self.0.len() + 1];
        reached[0] = true;
        self.skip(&mut reached);
        for segment in path.split('/') {
            let mut next = vec![false; reached.len()];
            for (at, wanted) in self.0.iter().enumerate().filter(|(at, _)| reached[*at]) {
                match wanted.as_str() {
                    "**" => next[at] = true,
                    "*" => next[at + 1] |= !segment.is_empty(),
                    literal => next[at + 1] |= literal == segment,
                }
            }
            self.skip(&mut next);
            reached = next;
        }
        reached[self.0.len()]
    }

    /// `**` also stands for no segment.
    fn skip(&self, reached: &mut [bool]) {
        for (at, wanted) in self.0.iter().enumerate() {
            reached[at + 1] |= reached[at] && wanted == "**";
        }
    }
}
