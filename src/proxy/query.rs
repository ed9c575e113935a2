//! A token in the query: one parameter is ours, however its name is written, and all else stays byte for byte.

use http::uri::{InvalidUri, PathAndQuery};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// All but the unreserved characters (RFC 3986 section 2.3): it reads the same wherever it is decoded.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// A shorter token could be a part of any word.
const SHORTEST_TOKEN: usize = 8;
/// A byte becomes three at most.
const LONGEST_ESCAPE: usize = 3;

/// Whether a query has a parameter that a server may take for `name`, which is [`escaped`].
pub fn has(query: &str, name: &str) -> bool {
    parameters(query, BETWEEN).any(|(_, parameter)| is(parameter, name))
}

/// A parameter's name as it goes on the wire.
pub fn escaped(name: &str) -> String {
    utf8_percent_encode(name, ESCAPED).to_string()
}

/// `target` with the token as its first parameter, and no other parameter that could be taken for it. `name` is escaped.
/// The memory is wiped when the last clone is dropped.
///
/// First, because most servers that find a parameter twice take the first one, and one that knows of a way to write the
/// name that is not known here still reads ours.
///
/// # Errors
/// The target cannot be written as one.
pub(super) fn with_token(
    target: &PathAndQuery,
    name: &str,
    token: &Secret,
) -> Result<PathAndQuery, InvalidUri> {
    let (path, query) = (target.path(), target.query().unwrap_or_default());
    let most = path.len() + query.len() + name.len() + token.expose().len() * LONGEST_ESCAPE + "?&=".len();
    // In one allocation: a vector that grows leaves an unwiped copy behind.
    let mut text = Vec::with_capacity(most);
    text.extend_from_slice(path.as_bytes());
    text.push(b'?');
    text.extend_from_slice(name.as_bytes());
    text.push(b'=');
    for part in percent_encode(token.expose(), ESCAPED) {
        text.extend_from_slice(part.as_bytes());
    }
    let end = text.len();
    for part in kept(query, BETWEEN, |parameter| !is(parameter, name)) {
        if text.len() == end && !part.is_empty() {
            text.push(b'&');
        }
        text.extend_from_slice(part.as_bytes());
    }
    PathAndQuery::from_maybe_shared(Secret::new(text).into_bytes())
}

/// A header's value that an upstream made from the URL that it was called with, without the token: `Location`, `Link`,
/// `Refresh`. `None` where the token is not in it.
pub(super) fn scrubbed(value: &str, name: &str, token: &Secret) -> Option<String> {
    let mut clean = String::with_capacity(value.len());
    let mut changed = false;
    // `Link` has its URLs between angle brackets, `Refresh` may have quotes: none of them stands in a URL.
    for part in value.split_inclusive(['<', '>', '"', '\'', ' ']) {
        let (url, end) = match part.char_indices().next_back() {
            Some((at, '<' | '>' | '"' | '\'' | ' ')) => part.split_at(at),
            _ => (part, ""),
        };
        let without = without_token(url, name, token);
        changed |= without.is_some();
        clean.push_str(without.as_deref().unwrap_or(url));
        clean.push_str(end);
    }
    // It may stand in a URL within the URL, as where to go back to after a login.
    for form in forms(token) {
        if clean.contains(form.as_str()) {
            clean = clean.replace(form.as_str(), "");
            changed = true;
        }
    }
    changed.then_some(clean)
}

/// The token as it stands in a URL, and in a URL within a URL. One so short that it may stand anywhere is left alone.
fn forms(token: &Secret) -> impl Iterator<Item = Zeroizing<String>> {
    let plain = token.expose_str().filter(|token| token.len() >= SHORTEST_TOKEN);
    let escape = |text: &str| Zeroizing::new(utf8_percent_encode(text, ESCAPED).to_string());
    let forms = plain.map(|plain| {
        let once = escape(plain);
        let twice = escape(&once);
        [Zeroizing::new(plain.to_owned()), once, twice]
    });
    forms.into_iter().flatten()
}

/// A URL that an upstream made from the one that it was called with, without the token; `None` where it has none.
fn without_token(url: &str, name: &str, token: &Secret) -> Option<String> {
    let (before, fragment) = url.split_at(url.find('#').unwrap_or(url.len()));
    let (path, query) = before.split_once('?')?;
    let ours = |parameter: &str| {
        let value = parameter.split_once('=').map_or("", |(_, value)| value);
        is(parameter, name)
            && (value.as_bytes() == token.expose()
                || percent_decode_str(value).eq(token.expose().iter().copied()))
    };
    if !parameters(query, BETWEEN_NESTED).any(|(_, parameter)| ours(parameter)) {
        return None;
    }
    let rest: String = kept(query, BETWEEN_NESTED, |parameter| !ours(parameter)).collect();
    let mark = if rest.is_empty() { "" } else { "?" };
    Some(format!("{path}{mark}{rest}{fragment}"))
}

/// Some servers part parameters at `;` too.
const BETWEEN: &[char] = &['&', ';'];
/// In a URL that stands in a parameter of another, and is not escaped.
const BETWEEN_NESTED: &[char] = &['&', ';', '?'];

/// Each parameter with the separator before it.
fn parameters<'q>(query: &'q str, between: &'static [char]) -> impl Iterator<Item = (&'q str, &'q str)> {
    let mut rest = Some(query);
    let mut separator = "";
    std::iter::from_fn(move || {
        let text = rest?;
        let end = text.find(between);
        let parameter = (separator, end.map_or(text, |end| text.get(..end).unwrap_or_default()));
        separator = end.and_then(|end| text.get(end..=end)).unwrap_or_default();
        rest = end.and_then(|end| text.get(end + 1..));
        Some(parameter)
    })
}

/// What is left of a query, in pieces that follow one another.
fn kept<'q>(
    query: &'q str,
    between: &'static [char],
    keep: impl Fn(&str) -> bool,
) -> impl Iterator<Item = &'q str> {
    let kept = parameters(query, between).filter(move |(_, parameter)| keep(parameter));
    kept.enumerate()
        .flat_map(|(index, (separator, parameter))| [if index == 0 { "" } else { separator }, parameter])
}

fn is(parameter: &str, name: &str) -> bool {
    let written = parameter.split('=').next().unwrap_or_default();
    if folded(name).any(|byte| byte == b'[') {
        // A member of a list is meant: nothing else is the list's, and a list in its place is it too.
        let members = |name| folded(name).filter(|byte| *byte != b']').collect::<Vec<u8>>();
        let (written, name) = (members(written), members(name));
        return written.strip_prefix(&*name).is_some_and(|rest| matches!(rest.first(), None | Some(b'[')));
    }
    // PHP takes a `[` that is not closed for a `_`.
    let unclosed = folded(written).map(|byte| if byte == b'[' { b'_' } else { byte });
    folded(written).take_while(|byte| !matches!(byte, b'[' | b']')).eq(folded(name))
        || unclosed.eq(folded(name))
}

/// A name as the most lenient server reads it: escapes decoded, in any case, a space and `.` as `_`, without what some
/// do not see before it: a space, a `?`, a `[` (`[name]` is `name` to them).
fn folded(name: &str) -> impl Iterator<Item = u8> {
    decoded(name)
        .skip_while(|byte| matches!(byte, b' ' | b'?' | b'['))
        .take_while(|byte| *byte != 0)
        .map(|byte| if matches!(byte, b' ' | b'.') { b'_' } else { byte.to_ascii_lowercase() })
}

/// Escapes and `+` decoded; `%u0061` too, as ASP.NET does.
fn decoded(text: &str) -> impl Iterator<Item = u8> {
    let mut rest = text.as_bytes();
    std::iter::from_fn(move || {
        let (first, after) = rest.split_first()?;
        let escaped = match (first, after) {
            (b'%', [b'u' | b'U', b'0', b'0', high, low, after @ ..]) => hex(*high, *low).zip(Some(after)),
            (b'%', [high, low, after @ ..]) => hex(*high, *low).zip(Some(after)),
            (b'+', after) => Some((b' ', after)),
            _ => None,
        };
        let (byte, after) = escaped.unwrap_or((*first, after));
        rest = after;
        Some(byte)
    })
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(digit(high)? << 4 | digit(low)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    fn every_form_of_the_callers_own_is_gone() {
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
    fn all_else_stays_byte_for_byte() {
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
    fn a_new_token_stands_instead_of_the_old_one() {
        assert_eq!(put(&put("/x?a=1", "old"), "new"), "/x?access_token=new&a=1");
    }

    #[test]
    fn a_member_of_a_list_may_be_meant() {
        let put = |target: &'static str| {
            let name = escaped("auth[token]");
            with_token(&PathAndQuery::from_static(target), &name, &Secret::from("t")).unwrap().to_string()
        };
        assert_eq!(put("/?auth[user]=u&auth[token]=mine"), "/?auth%5Btoken%5D=t&auth[user]=u");
        assert_eq!(put("/?auth%5btoken%5d=mine"), "/?auth%5Btoken%5D=t");
        assert_eq!(put("/?[auth][token]=mine&auth[token][]=mine&AUTH[token=mine"), "/?auth%5Btoken%5D=t");
        assert_eq!(put("/?auth[tokens]=1&auth=2"), "/?auth%5Btoken%5D=t&auth[tokens]=1&auth=2");
    }

    #[test]
    fn a_url_made_from_ours_loses_the_token_and_no_other_does() {
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
    fn a_header_made_from_our_url_loses_the_token_wherever_it_stands() {
        let clean = |value| scrubbed(value, "access_token", &Secret::from("eyJ.a/b+c"));
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
        assert_eq!(
            scrubbed("/token", "a", &Secret::from("t")),
            None,
            "too short to be told from other words"
        );
    }

    proptest! {
        #[test]
        fn no_query_keeps_two_tokens_or_loses_another_parameter(query in "[a-cA-C_=&;%+.?u\\[\\]0-9]{0,40}") {
            let target = PathAndQuery::try_from(format!("/x?{query}")).unwrap();
            let once = with_token(&target, "a_b", &Secret::from("t")).unwrap();
            let put = once.query().unwrap();
            prop_assert_eq!(parameters(put, BETWEEN).filter(|(_, parameter)| is(parameter, "a_b")).count(), 1);
            prop_assert!(put == "a_b=t" || put.starts_with("a_b=t&"));
            let others = |query: &str| -> Vec<String> {
                let all = parameters(query, BETWEEN).map(|(_, parameter)| parameter.to_owned());
                all.filter(|parameter| !is(parameter, "a_b") && !parameter.is_empty()).collect()
            };
            prop_assert_eq!(others(&query), others(put));
        }
    }
}
