//! HTTP/2 and gRPC under inspection: real clients and origins, both directions at the same time.

use std::error::Error;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Version};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use super::client::{connect_tls, trusting};
use super::origin::{Origin, Service, ok, serving, speaking};
use super::rig::{NAME, OTHER, Plan, Rig, SECRET, Workspace, rule};
use crate::egress::body::{Body, full};
use crate::egress::http2::Scope;
use crate::egress::names;
use crate::shutdown::Shutdown;

const ANY: &str = ", methods: [GET, HEAD, POST]";
const BOTH: &[&str] = &["h2", "http/1.1"];

struct Setup {
    shutdown: Shutdown,
    origin: Origin,
    rig: Rig,
    workspace: Workspace,
}

async fn setup(protocols: &[&str], more: &str) -> Setup {
    let shutdown = Shutdown::new();
    let origin = speaking(Some(NAME), protocols, ok(), &shutdown).await;
    around(origin, more, shutdown)
}

fn around(origin: Origin, more: &str, shutdown: Shutdown) -> Setup {
    let rig = Rig::new(&Plan::for_origin(&origin), &shutdown).unwrap();
    let workspace = rig.workspace("w1", &rule(&origin, &format!("{ANY}{more}")));
    Setup { shutdown, origin, rig, workspace }
}

impl Setup {
    async fn tls(&self, offered: &[&str]) -> TlsStream<TcpStream> {
        self.workspace.aim((names::v4(0), self.origin.address.port()));
        let mut config = trusting(&self.workspace.root);
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        connect_tls(self.workspace.listener, config, NAME).await.unwrap()
    }

    async fn client(&self) -> http2::SendRequest<Body> {
        let stream = self.tls(&["h2"]).await;
        self.on(stream).await
    }

    async fn on<S, B>(&self, stream: S) -> http2::SendRequest<B>
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
        B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>>
            + Send
            + Unpin
            + 'static,
    {
        let scope = Scope(self.shutdown.clone());
        let (sender, driver) = http2::handshake(scope, TokioIo::new(stream)).await.unwrap();
        self.shutdown.spawn_until_cancelled(async move { drop(driver.await) });
        sender
    }

    fn request(&self, path: &str) -> http::request::Builder {
        let port = self.origin.address.port();
        Request::builder().uri(format!("https://{NAME}:{port}{path}"))
    }

    fn get(&self, path: &str) -> Request<Body> {
        self.request(path).body(full(Bytes::new())).unwrap()
    }
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn h_22_a_client_is_offered_what_the_origin_speaks_from_the_first_connection_on() {
    for (spoken, negotiated) in [(&["http/1.1"][..], "http/1.1"), (BOTH, "h2"), (&["h2"], "h2")] {
        let setup = setup(spoken, "").await;
        for _ in 0..2 {
            let stream = setup.tls(BOTH).await;
            let chosen = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            assert_eq!(chosen.as_deref(), Some(negotiated.as_bytes()), "{spoken:?}");
        }
        assert_eq!(setup.origin.connections(), 1, "asked once");
        let records = setup.rig.records();
        assert_eq!((records.len(), &records[0]["kind"]), (2, &"connection".into()));
        if negotiated == "h2" {
            let mut client = setup.client().await;
            assert_eq!(client.send_request(setup.get("/v1/a")).await.unwrap().status(), 200);
            assert_eq!(setup.origin.connections(), 1, "and the connection is put to use");
        }
    }
}

#[tokio::test]
async fn h_22_clients_and_origins_of_either_protocol_understand_each_other() {
    let versions = [(&["h2"][..], Version::HTTP_2), (&["http/1.1"][..], Version::HTTP_11)];
    for (spoken, version) in versions {
        let setup = setup(spoken, "").await;
        let post = || setup.request("/v1/a?b=1").method("POST").header("x-end", "1");
        let mut newer = setup.client().await;
        let response = newer.send_request(post().body(full("body".into())).unwrap()).await.unwrap();
        assert_eq!((response.status().as_u16(), text(response).await.as_str()), (200, "hello"));
        let stream = setup.tls(&[]).await;
        let (mut older, driver) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        setup.shutdown.spawn_until_cancelled(async move { drop(driver.await) });
        let mut request = post().body(Full::new(Bytes::from("body"))).unwrap();
        let host = format!("{NAME}:{}", setup.origin.address.port());
        request.headers_mut().insert("host", host.parse().unwrap());
        *request.uri_mut() = "/v1/a?b=1".parse().unwrap();
        assert_eq!(text(older.send_request(request).await.unwrap()).await, "hello");
        for seen in setup.origin.seen() {
            assert_eq!((&*seen.target, &*seen.method, &seen.body[..]), ("/v1/a?b=1", "POST", &b"body"[..]));
            assert_eq!((seen.version, seen.header("x-end")), (version, Some("1")));
            assert_eq!(seen.authority.as_deref().or(seen.header("host")), Some(&*host));
        }
        assert_eq!(setup.origin.seen().len(), 2);
    }
}

#[tokio::test]
async fn h_03_every_stream_is_judged_and_h_29_a_denial_ends_only_its_stream() {
    let setup = setup(BOTH, "").await;
    let mut client = setup.client().await;
    let port = setup.origin.address.port();
    let other = Request::get(format!("https://{OTHER}:{port}/v1/a")).body(full(Bytes::new())).unwrap();
    let scheme = Request::get(format!("http://{NAME}:{port}/v1/a")).body(full(Bytes::new())).unwrap();
    let connect = Request::connect("evil.example:443").body(full(Bytes::new())).unwrap();
    let requests = [
        (setup.get("/v1/a"), 200),
        (setup.get("/admin"), 403),
        (other, 421),
        (scheme, 421),
        (connect, 405),
        (setup.get("/v1/%2f"), 400),
        (setup.get("/v1/b"), 200),
    ];
    let mut asked = Vec::new();
    for (request, status) in requests {
        asked.push((client.send_request(request), status));
    }
    for (response, status) in asked {
        assert_eq!(response.await.unwrap().status(), status);
    }
    let mut targets: Vec<String> = setup.origin.seen().into_iter().map(|seen| seen.target).collect();
    targets.sort();
    assert_eq!(targets, ["/v1/a", "/v1/b"]);
    let denied = setup.rig.records().iter().filter(|record| record["decision"] == "deny").count();
    assert_eq!(denied, 5);
}

#[tokio::test]
async fn h_29_a_thousand_allowed_and_denied_streams_share_a_connection() {
    let setup = setup(BOTH, "").await;
    let mut client = setup.client().await;
    for _ in 0..10 {
        let mut asked = Vec::new();
        for number in 0..100 {
            let path = if number % 2 == 0 { "/v1/a" } else { "/admin" };
            client.ready().await.unwrap();
            asked.push((client.send_request(setup.get(path)), if number % 2 == 0 { 200 } else { 403 }));
        }
        for (response, status) in asked {
            assert_eq!(response.await.unwrap().status(), status);
        }
    }
    assert_eq!((setup.origin.seen().len(), setup.origin.connections()), (500, 1));
}

#[tokio::test]
async fn h_25_streams_with_and_without_a_credential_use_different_connections() {
    let shutdown = Shutdown::new();
    let origin = speaking(Some(NAME), BOTH, ok(), &shutdown).await;
    let port = origin.address.port();
    let credentials = format!(
        "version: 1\ncredentials:\n  - {{ name: token, kind: bearer, source: {{ env: T }}, hosts: [{NAME}], ports: [{port}] }}\n"
    );
    let rig = Rig::new(&Plan { credentials, ..Plan::for_origin(&origin) }, &shutdown).unwrap();
    let plain = format!("    - {{ name: plain, hosts: [{NAME}], ports: [{port}], paths: [/v2] }}\n");
    let workspace = rig.workspace("w1", &(rule(&origin, ", credential: token") + &plain));
    let setup = Setup { shutdown, origin, rig, workspace };
    let mut client = setup.client().await;
    let bearer = format!("Bearer {SECRET}");
    for _ in 0..2 {
        for path in ["/v1/a", "/v2"] {
            assert_eq!(client.send_request(setup.get(path)).await.unwrap().status(), 200);
        }
    }
    for seen in setup.origin.seen() {
        let expected = (seen.target == "/v1/a").then_some(&*bearer);
        assert_eq!(seen.header("authorization"), expected);
        assert_eq!(seen.connection == setup.origin.seen()[0].connection, seen.target == "/v1/a");
    }
    assert_eq!(setup.origin.connections(), 2);
}

#[tokio::test]
async fn h_28_a_denied_call_of_grpc_gets_a_status_with_the_reason() {
    let setup = setup(BOTH, "").await;
    let mut client = setup.client().await;
    let call = setup.request("/admin.Users/Delete").method("POST").header("content-type", "application/grpc");
    let response = client.send_request(call.body(full(Bytes::new())).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert_eq!(response.headers()["grpc-status"], "7");
    let message = response.headers()["grpc-message"].to_str().unwrap().to_owned();
    assert!(message.contains("no rule allows this path") && message.contains("ask to add"), "{message}");
    assert!(setup.origin.seen().is_empty());
}

#[tokio::test]
async fn cookies_in_pieces_are_one_header() {
    let setup = setup(BOTH, "").await;
    let mut client = setup.client().await;
    let request = setup.request("/v1/a").header("cookie", "a=1").header("cookie", "b=2");
    client.send_request(request.body(full(Bytes::new())).unwrap()).await.unwrap();
    let seen = &setup.origin.seen()[0];
    assert_eq!(seen.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
}

#[tokio::test]
async fn h_32_cleartext_by_prior_knowledge_is_judged_the_same() {
    let shutdown = Shutdown::new();
    let origin = speaking(None, &["h2"], ok(), &shutdown).await;
    for (more, status) in [("", 403), (", cleartext: true", 200)] {
        let setup = around(origin.clone(), more, shutdown.clone());
        setup.workspace.aim((names::v4(0), origin.address.port()));
        let mut client = setup.on(TcpStream::connect(setup.workspace.listener).await.unwrap()).await;
        let get = |path| {
            let uri = format!("http://{NAME}:{}{path}", origin.address.port());
            Request::get(uri).body(full(Bytes::new())).unwrap()
        };
        assert_eq!(client.send_request(get("/v1/a")).await.unwrap().status(), status);
        assert_eq!(client.send_request(get("/admin")).await.unwrap().status(), 403);
    }
    assert_eq!(origin.seen().len(), 1);
    assert_eq!(origin.seen()[0].version, Version::HTTP_2);
}

/// Sends back every frame as it comes, and then trailers.
fn echo() -> Service {
    Arc::new(|_, request| {
        let te = request.headers().get("te").cloned();
        let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, hyper::Error>>(1);
        let answer: Body = StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync();
        let pump = async move {
            let mut body = request.into_body();
            while let Some(Ok(frame)) = body.frame().await {
                if sender.send(Ok(frame)).await.is_err() {
                    return;
                }
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            trailers.insert("x-te", te.unwrap_or_else(|| "none".parse().unwrap()));
            drop(sender.send(Ok(Frame::trailers(trailers))).await);
        };
        Shutdown::new().spawn(pump);
        Box::pin(async move { Response::new(answer) })
    })
}

#[tokio::test]
async fn h_22_a_call_of_grpc_streams_both_ways_at_once_and_ends_in_trailers() {
    let shutdown = Shutdown::new();
    let setup = around(serving(Some(NAME), BOTH, echo(), &shutdown).await, "", shutdown);
    let mut client = setup.client().await;
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, hyper::Error>>(1);
    let body: Body = StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync();
    let call = setup.request("/v1/echo").method("POST").header("te", "trailers");
    let call = call.header("content-type", "application/grpc").body(body).unwrap();
    let mut answer = client.send_request(call).await.unwrap().into_body();
    for message in ["one", "two", "three"] {
        sender.send(Ok(Frame::data(message.into()))).await.unwrap();
        let frame = answer.frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), message, "each comes back before the next is sent");
    }
    drop(sender);
    let trailers = answer.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(
        (&trailers["grpc-status"], &trailers["x-te"]),
        (&"0".parse().unwrap(), &"trailers".parse().unwrap())
    );
    assert!(answer.frame().await.is_none());
    let end = setup.rig.records().into_iter().rfind(|record| record["kind"] == "end").unwrap();
    assert_eq!((&end["bytes_up"], &end["bytes_down"], &end["reason"]), (&11.into(), &11.into(), &().into()));
}

/// Tells when it is dropped.
struct Dropped(mpsc::UnboundedSender<String>);

impl Drop for Dropped {
    fn drop(&mut self) {
        drop(self.0.send("answer dropped".to_owned()));
    }
}

/// Answers without end, and tells how its requests and answers end.
fn endless(told: mpsc::UnboundedSender<String>) -> Service {
    Arc::new(move |_, request| {
        let (told, dropped) = (told.clone(), Dropped(told.clone()));
        let watch = async move {
            let mut body = request.into_body();
            while let Some(frame) = body.frame().await {
                if let Err(error) = frame {
                    drop(told.send(format!("request cut: {error:?}")));
                    return;
                }
            }
        };
        Shutdown::new().spawn(watch);
        let silence = futures_util::stream::poll_fn(move |_| {
            let _held = &dropped;
            std::task::Poll::Pending
        });
        Box::pin(async move { Response::new(StreamBody::new(silence).boxed_unsync()) })
    })
}

#[tokio::test]
async fn h_22_a_cancelled_stream_is_cancelled_at_the_origin() {
    let shutdown = Shutdown::new();
    let (told, mut heard) = mpsc::unbounded_channel();
    let setup = around(serving(Some(NAME), BOTH, endless(told), &shutdown).await, "", shutdown);
    let mut client = setup.client().await;
    drop(client.send_request(setup.get("/v1/a")).await.unwrap());
    assert_eq!(heard.recv().await.unwrap(), "answer dropped");
    let stream = setup.tls(&["h2"]).await;
    let mut client = setup.on(stream).await;
    let (sender, receiver) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(1);
    let body = StreamBody::new(ReceiverStream::new(receiver));
    let call = setup.request("/v1/a").method("POST").body(body).unwrap();
    let answer = client.send_request(call).await.unwrap();
    sender.send(Err(std::io::Error::other("cut"))).await.unwrap();
    let mut ends = [heard.recv().await.unwrap(), heard.recv().await.unwrap()];
    ends.sort();
    assert_eq!(ends[0], "answer dropped");
    assert!(ends[1].starts_with("request cut"), "{ends:?}");
    assert_eq!(setup.origin.connections(), 1, "the connection lives on");
    drop(answer);
}

#[tokio::test]
async fn h_23_a_slow_reader_holds_the_origin_back() {
    let shutdown = Shutdown::new();
    let (counter, sent) = tokio::sync::watch::channel(0_usize);
    let counter = Arc::new(counter);
    let service: Service = Arc::new(move |_, request| {
        if request.uri().path() == "/v1/small" {
            return Box::pin(async { Response::new(full(Bytes::new())) });
        }
        let counter = counter.clone();
        let chunks = futures_util::stream::repeat_with(move || {
            counter.send_modify(|sent| *sent += 1);
            Ok(Frame::data(Bytes::from(vec![0; 64 * 1024])))
        });
        Box::pin(async move { Response::new(StreamBody::new(chunks).boxed_unsync()) })
    });
    let setup = around(serving(Some(NAME), BOTH, service, &shutdown).await, "", shutdown);
    let mut client = setup.client().await;
    let mut answer = client.send_request(setup.get("/v1/a")).await.unwrap().into_body();
    answer.frame().await.unwrap().unwrap();
    // Round trips of other streams are the clock: what could move has moved by then.
    for _ in 0..200 {
        assert_eq!(client.send_request(setup.get("/v1/small")).await.unwrap().status(), 200);
    }
    let held = *sent.borrow();
    assert!(held < 128, "{held} chunks of 64 KiB are on their way to a client that does not read");
    let mut read = 0;
    while read < 64 << 20 {
        read += answer.frame().await.unwrap().unwrap().into_data().unwrap().len();
    }
}
