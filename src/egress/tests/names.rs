//! Synthetic addresses and the authority's certificates.

use std::io;
use std::sync::{Arc, Mutex};

use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::egress::CertificateAuthority;
use crate::egress::authority::Leaves;
use crate::egress::names::{Meaning, NameError, Names, v4, v6};
use crate::egress::pool::Protocol;
use crate::policy::Name;

fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}

#[test]
fn e_11_a_name_has_one_stable_address_in_each_family() {
    let kept: Arc<Mutex<Vec<(String, u32)>>> = Arc::default();
    let keep = kept.clone();
    let remember = Arc::new(move |name: &str, number: u32| {
        keep.lock().unwrap().push((name.to_owned(), number));
        Ok(())
    });
    let names = Names::new(&[("a.example".to_owned(), 4)], remember);
    assert_eq!(names.assign(&name("a.example")).unwrap(), 4);
    assert_eq!(names.assign(&name("b.example")).unwrap(), 5);
    assert_eq!(names.assign(&name("B.example.")).unwrap(), 5);
    assert_eq!(*kept.lock().unwrap(), [("b.example".to_owned(), 5)]);
    assert_eq!((v4(5).to_string(), v6(5).to_string()), ("198.18.0.6".into(), "fd68:616e:6473::6".into()));
    for address in [v4(5).into(), v6(5).into(), v4(5).to_ipv6_mapped().into()] {
        assert_eq!(names.meaning(address), Meaning::Name(name("b.example")));
    }
}

#[test]
fn e_18_an_address_that_was_not_given_out_means_nothing() {
    let names = Names::new(&[], Arc::new(|_: &str, _| Ok(())));
    for address in ["198.18.0.0", "198.18.0.1", "198.19.255.255", "fd68:616e:6473::", "fd68:616e:6473:1::1"] {
        assert_eq!(names.meaning(address.parse().unwrap()), Meaning::Unassigned, "{address}");
    }
    for address in ["198.17.255.255", "198.20.0.0", "fd68:616e:6474::1"] {
        assert!(matches!(names.meaning(address.parse().unwrap()), Meaning::Literal(_)), "{address}");
    }
}

#[test]
fn a_name_that_could_not_be_kept_gets_no_address() {
    let names = Names::new(&[], Arc::new(|_: &str, _| Err(io::Error::other("disk"))));
    assert!(matches!(names.assign(&name("a.example")), Err(NameError::Remember(_))));
    assert_eq!(names.meaning(v4(0).into()), Meaning::Unassigned);
}

#[test]
fn h_20_each_workspace_has_its_own_authority_which_survives_saving() {
    let first = CertificateAuthority::generate("w1").unwrap();
    let second = CertificateAuthority::generate("w2").unwrap();
    assert_ne!(first.certificate_pem(), second.certificate_pem());
    let again = CertificateAuthority::from_bytes(&first.to_bytes()).unwrap();
    assert_eq!(again.certificate_pem(), first.certificate_pem());
    assert_eq!(again.to_bytes(), first.to_bytes());
    assert!(!format!("{first:?}").contains("PRIVATE"));
    CertificateAuthority::from_bytes(b"w1\nnothing").unwrap_err();
}

#[test]
fn an_authority_is_for_certificates_only_and_for_ten_years() {
    let authority = CertificateAuthority::generate("w1").unwrap();
    let (_, pem) = x509_parser::pem::parse_x509_pem(authority.certificate_pem().as_bytes()).unwrap();
    let (_, certificate) = X509Certificate::from_der(&pem.contents).unwrap();
    assert!(certificate.is_ca());
    assert!(certificate.validity().is_valid());
    let usage = certificate.key_usage().unwrap().unwrap().value;
    assert!(usage.key_cert_sign() && !usage.digital_signature());
    assert_eq!(certificate.subject().to_string(), "CN=Hands workspace w1");
}

#[test]
fn h_19_a_leaf_is_made_once() {
    let leaves = Leaves::new(&CertificateAuthority::generate("w1").unwrap()).unwrap();
    let first = leaves.server_config("a.example", Protocol::Http1).unwrap();
    assert!(Arc::ptr_eq(&first, &leaves.server_config("a.example", Protocol::Http1).unwrap()));
    assert!(!Arc::ptr_eq(&first, &leaves.server_config("b.example", Protocol::Http1).unwrap()));
    assert_eq!(first.alpn_protocols, [b"http/1.1".to_vec()]);
    leaves.server_config("::1", Protocol::Http2).unwrap();
}
