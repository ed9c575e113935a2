use super::*;

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
fn words_with_a_secret_are_left_out_as_a_whole() {
    let redactor = knows("correct-horse");
    for text in ["the secret correct-horse is wrong", "CORRECT-HORSE", "orrect-h", "cor\nrect \u{200b}-horse"]
    {
        assert_eq!(redactor.show(text, 512), None, "{text}");
    }
}

#[test]
fn cuts_between_characters_and_looks_at_more_than_it_shows() {
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
