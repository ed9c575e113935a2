use http::header;
use proptest::prelude::*;

use super::*;
use crate::net::dpop::NONCE;

#[test]
fn custom_formats_are_sensitive_and_exact() {
    let value = formatted("Token token=\"", &Secret::from("abc"), "\"");
    assert_eq!(value.as_bytes(), b"Token token=\"abc\"");
    assert!(value.is_sensitive());
}

fn asks(challenge: &'static str) -> bool {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response.headers_mut().insert(NONCE, HeaderValue::from_static("n-1"));
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    requires_nonce(&response)
}

#[test]
fn t81_a_required_nonce_is_found_in_every_form_of_a_challenge() {
    for challenge in [
        r#"DPoP error="use_dpop_nonce""#,
        r#"DPoP error="use_dpop_nonce", error_description="Resource server requires nonce in DPoP proof""#,
        r#"dpop realm="a, b", algs="ES256 RS256" , ERROR = "use_dpop_nonce""#,
        "DPoP error=use_dpop_nonce",
        r#"Bearer error="invalid_token", DPoP algs="ES256", error="use_dpop_nonce""#,
        r#"Negotiate abc==, DPoP error="use_dpop_nonce""#,
        r#"Basic, DPoP realm="\"x\", y", error="use_dpop_nonce""#,
    ] {
        assert!(asks(challenge), "{challenge}");
    }
}

#[test]
fn t81_no_other_challenge_requires_one() {
    for challenge in [
        r#"DPoP error="invalid_token""#,
        r#"DPoP error="invalid_dpop_proof", error_description="use_dpop_nonce""#,
        r#"Bearer error="use_dpop_nonce""#,
        r#"DPoP algs="ES256", Bearer error="use_dpop_nonce""#,
        r#"Bearer realm="DPoP error=\"use_dpop_nonce\"""#,
        r#"Bearer realm="a, DPoP error=use_dpop_nonce""#,
        "DPoP",
    ] {
        assert!(!asks(challenge), "{challenge}");
    }
}

fn put(target: &str, token: &str) -> String {
    let target = PathAndQuery::try_from(target).unwrap();
    with_token(&target, "access_token", &Secret::from(token)).unwrap().as_str().to_owned()
}

#[test]
fn the_token_is_the_first_parameter_and_escaped() {
    assert_eq!(put("/x", "t"), "/x?access_token=t");
    assert_eq!(put("/x?", "t"), "/x?access_token=t");
    assert_eq!(put("/x?a=1&b=%20+", "t"), "/x?access_token=t&a=1&b=%20+");
    assert_eq!(put("/x?&a=1&", "t"), "/x?access_token=t&&a=1&");
    assert_eq!(put("/", "a+b/c=&d#e%~"), "/?access_token=a%2Bb%2Fc%3D%26d%23e%25~");
}

#[test]
fn every_spelling_of_the_callers_own_parameter_is_removed() {
    for own in [
        "access_token=mine",
        "access_token",
        "access_token=",
        "access_token=a=b",
        "%61ccess_token=mine",
        "%61%63%63%65%73%73%5F%74%6f%6b%65%6E=mine",
        "access+token=mine",
        "+access_token=mine",
        "access%20token=mine",
        "access.token=mine",
        "Access_Token=mine",
        "access_token[]=mine",
        "access_token%5B0%5D=mine",
        "access_token%00x=mine",
        "access[token=mine",
        "access%5Btoken=mine",
        "access_token=mine&access_token=mine2",
        "access_token[=mine",
        "access_token]=mine",
        "access_token[0][x]=mine",
        "[access_token]=mine",
        "[access_token][]=mine",
        "%5Baccess_token%5D=mine",
        "%5baccess_token%5d=mine",
        "[[access_token]]=mine",
        "[access_token=mine",
        "?access_token=mine",
        "??access_token=mine",
        "%u0061ccess%U005ftoken=mine",
        "%20%20access_token=mine",
        "ACCESS.TOKEN[]=mine",
        "access_token[]=mine&[access_token]=mine&access%5Ftoken=mine",
    ] {
        assert_eq!(put(&format!("/x?{own}"), "t"), "/x?access_token=t", "{own}");
        assert_eq!(put(&format!("/x?{own}&b=2"), "t"), "/x?access_token=t&b=2", "{own}");
        assert_eq!(put(&format!("/x?a=1&{own}"), "t"), "/x?access_token=t&a=1", "{own}");
        assert_eq!(put(&format!("/x?a=1&{own}&b=2"), "t"), "/x?access_token=t&a=1&b=2", "{own}");
        assert_eq!(put(&format!("/x?a=1;{own};b=2"), "t"), "/x?access_token=t&a=1;b=2", "{own}");
    }
}

#[test]
fn other_parameters_stay_byte_for_byte() {
    for rest in [
        "access_tokens=1",
        "my_access_token=1",
        "access=token",
        "token=access_token",
        "%zz=1&&b;;=&%",
        "a=%61ccess_token%3Dx",
        "x[access_token]=1",
        "access[token]=1",
        "&",
        "%2561ccess_token=1",
        "[x][access_token]=1",
        "%u1061ccess_token=1",
        "access__token=1",
    ] {
        assert_eq!(put(&format!("/x?{rest}"), "t"), format!("/x?access_token=t&{rest}"));
    }
}

#[test]
fn a_new_token_replaces_the_old_one() {
    assert_eq!(put(&put("/x?a=1", "old"), "new"), "/x?access_token=new&a=1");
}

#[test]
fn the_parameter_may_be_a_member_of_a_list() {
    let put = |target: &'static str| {
        let name = escape_name("auth[token]");
        with_token(&PathAndQuery::from_static(target), &name, &Secret::from("t")).unwrap().to_string()
    };
    assert_eq!(put("/?auth[user]=u&auth[token]=mine"), "/?auth%5Btoken%5D=t&auth[user]=u");
    assert_eq!(put("/?auth%5btoken%5d=mine"), "/?auth%5Btoken%5D=t");
    assert_eq!(put("/?[auth][token]=mine&auth[token][]=mine&AUTH[token=mine"), "/?auth%5Btoken%5D=t");
    assert_eq!(put("/?auth[tokens]=1&auth=2"), "/?auth%5Btoken%5D=t&auth[tokens]=1&auth=2");
}

#[test]
fn only_a_url_with_the_token_loses_it() {
    let without = |url| without_token(url, "access_token", &Secret::from("t/1"));
    assert_eq!(without("/x/?a=1&access_token=t%2F1#y").as_deref(), Some("/x/?a=1#y"));
    assert_eq!(without("https://h/x?access_token=t/1").as_deref(), Some("https://h/x"));
    assert_eq!(without("https://h/x?access_token=t%2f1&b").as_deref(), Some("https://h/x?b"));
    assert_eq!(without("/login?to=/x?access_token=t/1&a=1").as_deref(), Some("/login?to=/x&a=1"));
    for url in ["/x", "/x?access_token=other", "/x?token=t/1", "/x#?access_token=t/1"] {
        assert_eq!(without(url), None, "{url}");
    }
}

#[test]
fn a_field_built_from_the_request_url_loses_the_token_everywhere() {
    let clean = |value| scrub(value, "access_token", &Secret::from("eyJ.a/b+c"));
    for (value, cleaned) in [
        ("/x?a=1&access_token=eyJ.a%2Fb%2Bc#y", "/x?a=1#y"),
        (
            "<https://h/x?access_token=eyJ.a%2Fb%2Bc&page=2>; rel=\"next\", </y?access_token=eyJ.a/b%2bc>; rel=first",
            "<https://h/x?page=2>; rel=\"next\", </y>; rel=first",
        ),
        ("5; url='/x?access_token=eyJ.a/b%2Bc'", "5; url='/x'"),
        (
            "https://login/?to=https%3A%2F%2Fh%2Fx%3Faccess_token%3DeyJ.a%252Fb%252Bc",
            "https://login/?to=https%3A%2F%2Fh%2Fx%3Faccess_token%3D",
        ),
        ("/x;eyJ.a/b+c", "/x;"),
    ] {
        assert_eq!(clean(value).as_deref(), Some(cleaned), "{value}");
    }
    assert_eq!(clean("<https://h/x?page=2>; rel=\"next\""), None);
    assert_eq!(scrub("/token", "a", &Secret::from("t")), None, "too short to be told from other words");
}

proptest! {
    #[test]
    fn no_query_keeps_two_tokens_or_loses_another_parameter(query in "[a-cA-C_=&;%+.?u\\[\\]0-9]{0,40}") {
        let target = PathAndQuery::try_from(format!("/x?{query}")).unwrap();
        let once = with_token(&target, "a_b", &Secret::from("t")).unwrap();
        let put = once.query().unwrap();
        prop_assert_eq!(parameters(put, SEPARATORS).filter(|(_, parameter)| is_named(parameter, "a_b")).count(), 1);
        prop_assert!(put == "a_b=t" || put.starts_with("a_b=t&"));
        let others = |query: &str| -> Vec<String> {
            let all = parameters(query, SEPARATORS).map(|(_, parameter)| parameter.to_owned());
            all.filter(|parameter| !is_named(parameter, "a_b") && !parameter.is_empty()).collect()
        };
        prop_assert_eq!(others(&query), others(put));
    }
}
