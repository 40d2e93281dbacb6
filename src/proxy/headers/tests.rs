use bytes::Bytes;
use http_body_util::Full;

use http::uri::PathAndQuery;

use super::*;

type Body = Full<Bytes>;

fn request(fields: &[(&str, &str)]) -> Request<Body> {
    let mut request = Request::builder().uri("/");
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(Body::default()).unwrap()
}

fn prepared(fields: &[(&str, &str)]) -> HeaderMap {
    prepared_for(ClientCertificate::NotAsked, fields)
}

fn prepared_for(certificate: ClientCertificate, fields: &[(&str, &str)]) -> HeaderMap {
    let mut request = request(fields);
    let rules = Rules { upgrades: Vec::new().into(), connect: false };
    let forwarded = Forwarded::new(Some([192, 0, 2, 1].into()), "https", certificate);
    prepare_request(&mut request, &forwarded, &rules).unwrap();
    request.into_parts().0.headers
}

#[test]
fn connection_cannot_take_away_what_every_recipient_needs() {
    let named = END_TO_END.iter().map(HeaderName::as_str).collect::<Vec<_>>().join(",");
    let connection = format!("close,{named}, x-own ,,\u{fc}, x-forwarded-for");
    let headers =
        prepared(&[("host", "a"), ("connection", &connection), ("authorization", "b"), ("x-own", "1")]);
    assert_eq!(headers[header::AUTHORIZATION], "b");
    assert_eq!(headers[header::HOST], "a");
    assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.1", "ours is set after theirs is removed");
    assert!(!headers.contains_key("x-own") && !headers.contains_key(header::CONNECTION));
}

#[test]
fn what_a_client_says_of_itself_is_replaced() {
    let headers = prepared(&[
        ("host", "a"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x-forwarded-for", "7.7.7.7"),
        ("x-forwarded-proto", "gopher"),
        ("x-forwarded-port", "1"),
        ("forwarded", "for=6.6.6.6"),
    ]);
    let all = |name| headers.get_all(name).iter().collect::<Vec<_>>();
    assert_eq!(all("x-forwarded-for"), ["192.0.2.1"]);
    assert_eq!(all("x-forwarded-proto"), ["https"]);
    assert_eq!(all("x-forwarded-host"), ["a"]);
    assert!(!headers.contains_key("x-forwarded-port") && !headers.contains_key("forwarded"));
}

/// WSGI, PHP and other heirs of CGI see no difference between a hyphen and an underscore.
#[test]
fn what_a_client_says_of_itself_cannot_be_disguised() {
    let headers = prepared(&[
        ("host", "a"),
        ("x_forwarded_for", "6.6.6.6"),
        ("X-Forwarded_For", "7.7.7.7"),
        ("x_real_ip", "6.6.6.6"),
        ("x_own", "kept"),
    ]);
    let about_the_client = headers.keys().filter(|name| name.as_str().contains('_')).collect::<Vec<_>>();
    assert_eq!(about_the_client, ["x_own"]);
    assert_eq!(headers[X_FORWARDED_FOR], "192.0.2.1");

    for name in OURS.iter().chain(&NOT_FROM_CLIENTS).filter(|name| name.as_str().contains('-')) {
        let disguise = name.as_str().replace('-', "_");
        let headers = prepared(&[("host", "a"), (&disguise, "forged")]);
        assert!(!headers.contains_key(&disguise), "{disguise}");
    }
}

#[test]
fn what_a_client_says_of_itself_cannot_come_last() {
    let names = [
        "x-forwarded-for",
        "x_forwarded_host",
        "x-client-cert-subject",
        "x_client-cert_verified",
        "x-real-ip",
        "connection",
        "x-named",
        "host",
        "content-length",
        "x-sum",
    ];
    let mut trailers: HeaderMap = names
        .iter()
        .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("x-named")))
        .collect();
    prepare_trailers(&mut trailers);
    assert_eq!(trailers.keys().collect::<Vec<_>>(), ["x-sum"]);
}

#[test]
fn nobody_says_of_himself_whose_certificate_he_has() {
    let forged = [
        ("host", "a"),
        ("connection", "x-client-cert-subject, x-client-cert-verified"),
        ("X-Client-Cert-Subject", "CN=admin"),
        ("x-client-cert-subject", "CN=root"),
        ("x_client_cert_subject", "CN=admin"),
        ("x-client-cert-verified", "SUCCESS"),
        ("x-client_cert-verified", "SUCCESS"),
    ];
    let about = |certificate| {
        let headers = prepared_for(certificate, &forged);
        let about = headers.iter().filter(|(name, _)| name.as_str().contains("cert"));
        about.map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect::<Vec<_>>()
    };
    let verified = |subject: &str| ClientCertificate::Verified { subject: subject.to_owned() };
    assert!(about(ClientCertificate::NotAsked).is_empty());
    assert_eq!(about(ClientCertificate::NotShown), ["x-client-cert-verified: NONE"]);
    assert_eq!(about(verified("")), ["x-client-cert-verified: SUCCESS"]);
    let alice = ["x-client-cert-verified: SUCCESS", "x-client-cert-subject: CN=alice"];
    assert_eq!(about(verified("CN=alice")), alice);
}

/// The table of names and the lists must not part.
#[test]
fn what_is_to_be_removed_is_found() {
    let among = |name: &HeaderName| {
        let fields = [(name.clone(), HeaderValue::from_static("x"))];
        Found::among(&fields.into_iter().collect())
    };
    assert!(ONE_HOP.iter().all(|name| among(name).one_hop));
    assert!(NOT_FROM_CLIENTS.iter().all(|name| among(name).not_from_clients));
    assert!(OURS.iter().all(|name| among(name).certificate == name.as_str().contains("-cert-")));
    assert!(among(&header::CONNECTION).names && among(&header::TRANSFER_ENCODING).transfer_encoding);
    assert!(among(&header::EXPECT).expect && among(&header::PROXY_AUTHENTICATE).proxy_authenticate);
}

#[test]
fn an_expectation_other_than_100_continue_is_the_upstreams_to_judge() {
    assert!(!prepared(&[("host", "a"), ("expect", "100-Continue")]).contains_key("expect"));
    assert_eq!(prepared(&[("host", "a"), ("expect", "magic")])["expect"], "magic");
}

/// As a socket for both families shows them, such as one from systemd.
#[test]
fn a_client_of_ipv4_has_one_address() {
    for (client, shown) in [("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1")] {
        let client = client.parse().unwrap();
        let forwarded = Forwarded::new(Some(client), "http", ClientCertificate::NotAsked);
        assert_eq!(forwarded.client, shown);
    }
}

#[test]
fn te_is_passed_on_for_trailers_alone() {
    assert!(!prepared(&[("host", "a"), ("te", "gzip")]).contains_key("te"));
    assert_eq!(prepared(&[("host", "a"), ("te", "gzip, Trailers")])["te"], "trailers");
}

/// What HTTP/2 can carry and HTTP/1 would split. The types of `http` refuse all of it but bytes beyond ASCII in a
/// target, which are for [`take_host`].
#[test]
fn what_would_split_a_request_has_no_type() {
    for bad in ["a b", "a\rb", "a\nb", "a\0b", "a:b", "", "\u{fc}"] {
        HeaderName::from_bytes(bad.as_bytes()).unwrap_err();
        if bad != "a:b" {
            Method::from_bytes(bad.as_bytes()).unwrap_err();
        }
    }
    for bad in ["a\rb", "a\nb", "a\0b", "a\x7fb"] {
        HeaderValue::from_bytes(bad.as_bytes()).unwrap_err();
    }
    for bad in ["/a b", "/a\rb", "/a\nb", "/a\tb", "/a\0b", "/?a b", "/?a\nb"] {
        PathAndQuery::try_from(bad).unwrap_err();
    }
    for bad in ["/\u{fc}", "/?\u{fc}"] {
        let mut request = request(&[("host", "a")]);
        let Ok(target) = PathAndQuery::try_from(bad.as_bytes()) else { continue };
        *request.uri_mut() = Uri::from(target);
        assert_eq!(take_host(&mut request).unwrap_err().label(), "target_invalid", "{bad}");
    }
}

#[test]
fn lengths_that_can_be_read_in_two_ways() {
    let refused = |fields: &[(&str, &str)]| {
        let mut request = request(&[&[("host", "a")], fields].concat());
        let rules = Rules { upgrades: Vec::new().into(), connect: false };
        let forwarded = Forwarded::new(None, "http", ClientCertificate::NotAsked);
        prepare_request(&mut request, &forwarded, &rules).map_err(|error| error.label()).err()
    };
    assert_eq!(refused(&[("content-length", "0")]), None);
    for bad in ["", "+1", "01", "1, 1", "x", "0x1"] {
        assert_eq!(refused(&[("content-length", bad)]), Some("content_length"), "{bad}");
    }
    assert_eq!(refused(&[("content-length", "0"), ("content-length", "0")]), Some("content_length"));
    let both = [("content-length", "0"), ("transfer-encoding", "chunked")];
    assert_eq!(refused(&both), Some("content_length"));
}

#[test]
fn transfer_codings() {
    let check = |values: &[&str]| {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::TRANSFER_ENCODING, value.parse().unwrap());
        }
        check_transfer_coding(&headers)
    };
    assert_eq!(check(&[]), Ok(false));
    assert_eq!(check(&["Chunked"]), Ok(true));
    for bad in [&["gzip, chunked"][..], &["gzip", "chunked"], &["chunked, chunked"], &["identity"], &[""]] {
        assert_eq!(check(bad), Err(()), "{bad:?}");
    }
}
