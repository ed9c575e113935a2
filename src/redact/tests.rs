use ::base64::Engine;
use ::base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use proptest::prelude::*;

use super::*;
use crate::issuer::fuzz::{STEPS, echoed};

fn knows(secret: &str) -> Redactor {
    let mut redactor = Redactor::default();
    redactor.add(&Secret::from(secret));
    redactor
}

#[test]
fn words_without_a_secret_are_shown_without_control_characters() {
    let redactor = knows("correct-horse");
    let shown = |text| redactor.show(text, 512);
    assert_eq!(shown(" no such client "), Some("no such client".to_owned()));
    assert_eq!(shown("\u{1b}[31mred\r\n\u{202e}x"), Some("[31mred   x".to_owned()));
    assert_eq!(shown("my horse"), Some("my horse".to_owned()));
}

#[test]
fn texts_with_a_secret_are_not_shown_at_all() {
    let redactor = knows("correct-horse");
    for text in ["the secret correct-horse is wrong", "CORRECT-HORSE", "orrect-h", "cor\nrect \u{200b}-horse"]
    {
        assert_eq!(redactor.show(text, 512), None, "{text}");
    }
}

#[test]
fn cuts_between_characters_and_examines_more_than_it_shows() {
    let redactor = knows("correct-horse");
    assert_eq!(redactor.show("éé", 3), Some("é".to_owned()));
    assert_eq!(redactor.show(&"é".repeat(1000), 511).map(|shown| shown.len()), Some(510));
    assert_eq!(redactor.show(&format!("{}correct-horse", "x ".repeat(500)), 512), None);
}

#[test]
fn a_secret_of_one_letter_hides_no_word() {
    let redactor = knows("e");
    assert_eq!(redactor.show("the scheme", 512), Some("the scheme".to_owned()));
    assert_eq!(redactor.show("the secret e", 512), None);
}

#[test]
fn codes_are_short_and_plain() {
    let redactor = knows("correct-horse");
    assert_eq!(redactor.show_code("invalid_clïent\n").as_deref(), Some("invalid_clent"));
    assert_eq!(redactor.show_code("bad_correct-horse"), None);
    assert_eq!(redactor.show_code("céoérérééectïï-éhéoéréséeé"), None, "what is left out is what hid it");
    assert_eq!(redactor.show_code("é"), None);
    assert_eq!(redactor.show_code(&"x".repeat(100)).map(|code| code.len()), Some(64));
}

#[test]
fn traces_are_whole_distinct_and_printable() {
    let redactor = knows("correct-horse");
    let shown = |pairs: &[(&str, &str)]| {
        let pairs: Vec<_> = pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        redactor.show_traces(&pairs)
    };
    assert_eq!(shown(&[("a", "1"), ("b", "2"), ("c", "1")]).as_deref(), Some("a=1 b=2"));
    assert_eq!(shown(&[("a", "x correct-horse"), ("b", "é"), ("c", ""), ("d", "a\nb")]), None);
    let long = "x".repeat(100);
    assert_eq!(shown(&[("a", &long), ("b", &long[1..]), ("c", "3")]), Some(format!("a={long} c=3")));
}

#[test]
fn short_values_and_urls_are_no_secrets() {
    let mut redactor = Redactor::default();
    for value in ["42", "4242", "https://api.example/v1", "https://user:correct@horse/"] {
        redactor.add_value(&Secret::from(value));
    }
    let shown = |text: &str| redactor.show(text, 512).is_some();
    assert!(shown("42") && shown("unknown resource https://api.example/v1"));
    assert!(!shown("4242") && !shown("user:correct@horse"));
}

fn found(secret: &str, text: &str) -> bool {
    holds_any(text, &Vec::from_iter(KnownSecret::new(secret.as_bytes())))
}

#[test]
fn every_form_of_a_long_secret_is_found() {
    let secret = "s3:c+r é/%t&x";
    for text in [
        "bad s3:c+r é/%t&x here".to_owned(),
        "bad s3 :c+r\té/\n%t &x".to_owned(),
        "s3%3Ac%2Br+%C3%A9%2F%25t%26x".to_owned(),
        "s3%3ac%2br%20%c3%a9%2f%25t%26x".to_owned(),
        "s3%253Ac%252Br%2B%25C3%25A9%252F%2525t%2526x".to_owned(),
        r"s3:c+r \u00e9\/%t&x".to_owned(),
        r"s3:c\u002Br \u00e9/%t\u0026x".to_owned(),
        "s3:c&#43;r &#xe9;/%t&amp;x".to_owned(),
        "S3:C+R É/%T&X".to_owned(),
        STANDARD.encode(secret),
        format!("svc{}", URL_SAFE_NO_PAD.encode(format!("svc a:{secret}"))),
        STANDARD_NO_PAD.encode("svc+a:s3%3Ac%2Br+%C3%A9%2F%25t%26x"),
        STANDARD.encode(STANDARD.encode(secret)),
        "73333a632b7220C3A92f257426".to_owned(),
    ] {
        assert!(found(secret, &text), "{text}");
    }
}

#[test]
fn eight_characters_of_any_encoding_are_found() {
    let secret = "Zq7-kP0_vW3.mN9";
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    for encoded in [secret.to_owned(), hex, STANDARD.encode(secret), STANDARD.encode(format!("ab{secret}"))] {
        // The characters around the secret in base64 contain parts of its neighbors.
        let own = &encoded[4..20.min(encoded.len())];
        for at in 0..=own.len() - 8 {
            assert!(found(secret, &format!("it was {}!", &own[at..at + 8])), "{own} from {at}");
        }
    }
}

#[test]
fn other_texts_are_let_through() {
    let secret = "Zq7-kP0_vW3.mN9";
    for text in [
        "",
        "Invalid client or invalid client credentials",
        "AADSTS7000215: Invalid client secret provided. Trace ID: 0d1f2a3b-4c5d-6e7f-8091-a2b3c4d5e6f7 \
         Correlation ID: 11111111-2222-3333-4444-555555555555 Timestamp: 2030-01-01 00:00:00Z",
        "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl",
        "Zq7-kP0",
    ] {
        assert!(!found(secret, text), "{text}");
    }
}

#[test]
fn a_short_secret_is_found_as_a_whole_and_a_very_short_one_as_a_word() {
    for (secret, text, expected) in [
        ("hunter2", "no hunter2!", true),
        ("hunter2", "no hunter22", true),
        ("hunter2", "hun\r\nter2x", true),
        ("hunt", "no hunter", false),
        ("hunt", "no_hunt", false),
        ("hunt", "no hunt!", true),
        ("hunter2", "client_secret=hunter2&x=y", true),
        ("hunter2", "no_hunter2", true),
        ("hunter2", "%20hunter2%20", true),
        ("hunter2", "HUNTER2", true),
        ("hunter2", "Basic c3ZjOmh1bnRlcjI=", true),
        ("hunter2", "68756e74657232", true),
        ("ab", "a cab, a tab", false),
        ("ab", "it is ab.", true),
        ("a b", "a+b", true),
        ("a b", "a\n b", true),
        ("a&b", "a%26b a&amp;b", true),
        ("%41%42%43", "ABC", false),
        ("%41%42%43", "the secret %2541%2542%2543", true),
        (":", "svc:x", true),
        ("e", "the quick brown fox jumps over the lazy dog and runs away from everything there", false),
        ("", "anything", false),
        (" \n", "any thing", false),
    ] {
        assert_eq!(found(secret, text), expected, "{secret} in {text}");
    }
}

proptest! {
    /// However a server encodes it, a run of eight characters of a secret is found.
    #[test]
    fn no_composition_hides_a_secret(
        secret in "[!-~é€😀]{8,40}",
        from in 0_usize..32,
        length in 8_usize..40,
        steps in prop::collection::vec(0..STEPS, 0..4),
        around in ("[ -~]{0,20}", "[ -~]{0,20}"),
    ) {
        let characters: Vec<char> = secret.chars().collect();
        let from = from.min(characters.len() - 8);
        let piece: String = characters[from..].iter().take(length).collect();
        let encoded = steps.iter().fold(piece, |text, &step| echoed(&text, step));
        prop_assert!(found(&secret, &format!("{} {encoded} {}", around.0, around.1)), "{encoded}");
    }

    #[test]
    fn nothing_panics(secret in ".{0,20}", text in ".{0,200}") {
        found(&secret, &text);
    }
}
