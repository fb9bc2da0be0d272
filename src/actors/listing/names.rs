//! The names of projects, collections and tags as names of directory entries (arv-mount.md 2.7).

/// The name shown for an object called `name`; `None` hides it (objects without a name).
///
/// `substitution` stands for `/`; without one each slash becomes `_`, as NUL always does.
pub fn shown(name: &str, substitution: Option<&str>) -> Option<Vec<u8>> {
    let name = match name {
        "" => return None,
        "." => "_".to_owned(),
        ".." => "__".to_owned(),
        name => match substitution {
            Some(text) => name.replace('/', text),
            None => name.to_owned(),
        },
    };
    let replace = |byte| if matches!(byte, 0 | b'/') { b'_' } else { byte };
    Some(name.into_bytes().into_iter().map(replace).collect())
}

/// Places of a name where there may have been a slash, up to which all names that it may come from are listed: 32 of them. A server
/// finds names by an index, and has to look at each one to compare it with a pattern.
const MOST_LISTED: usize = 5;

/// The names that an object shown as `name` may have, the likeliest first, as far as they can be listed ([`pattern`]).
pub fn candidates(name: &str, substitution: Option<&str>) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    let text = substitute(substitution);
    let places = places(name, text);
    let count = if are_listed(&places, text) { places.len() } else { 0 };
    // All of them slashes first.
    for slashes in (1..1_u32 << count).rev() {
        let mut candidate = String::with_capacity(name.len());
        let mut end = 0;
        for (_, place) in places.iter().enumerate().filter(|(number, _)| slashes & (1 << number) != 0) {
            candidate.push_str(&name[end..*place]);
            candidate.push('/');
            end = place + text.len();
        }
        candidate.push_str(&name[end..]);
        names.push(candidate);
    }
    match name {
        "_" => names.push(".".to_owned()),
        "__" => names.push("..".to_owned()),
        _ => {}
    }
    names
}

/// A pattern of SQL's `like` for the names that an object shown as `name` may have, if there are more than [`candidates`] lists:
/// wherever the substitute stands there may be a slash. It matches few others besides, all of which [`shown`] sorts out.
pub fn pattern(name: &str, substitution: Option<&str>) -> Option<String> {
    let text = substitute(substitution);
    let places = places(name, text);
    if are_listed(&places, text) {
        return None;
    }
    // As long as a slash, or longer and perhaps overlapping.
    let any = if text.chars().count() == 1 { '_' } else { '%' };
    let mut pattern = String::with_capacity(name.len());
    let mut ends_with_any = false;
    for (position, character) in name.char_indices() {
        match character {
            _ if places.iter().any(|place| (*place..*place + text.len()).contains(&position)) => {
                if any == '_' || !ends_with_any {
                    pattern.push(any);
                }
                ends_with_any = true;
                continue;
            }
            '%' | '_' | '\\' => pattern.extend(['\\', character]),
            _ => pattern.push(character),
        }
        ends_with_any = false;
    }
    Some(pattern)
}

/// Where there may have been a slash.
fn places(name: &str, text: &str) -> Vec<usize> {
    let starts = |position: &usize| !text.is_empty() && name.as_bytes()[*position..].starts_with(text.as_bytes());
    (0..name.len()).filter(starts).collect()
}

/// They are few, and none overlaps the next.
fn are_listed(places: &[usize], text: &str) -> bool {
    places.len() <= MOST_LISTED && places.windows(2).all(|pair| pair[0] + text.len() <= pair[1])
}

/// Without a substitute for slashes they are shown as what cannot be shown.
fn substitute(substitution: Option<&str>) -> &str {
    substitution.unwrap_or("_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_replaced_as_upstream_does() {
        let shown =
            |name, substitution| shown(name, substitution).map(|bytes| String::from_utf8(bytes).expect("utf-8"));
        assert_eq!(shown("", None), None);
        assert_eq!(shown(".", None).as_deref(), Some("_"));
        assert_eq!(shown("..", Some("x")).as_deref(), Some("__"));
        assert_eq!(shown("a/b\0c", None).as_deref(), Some("a_b_c"));
        assert_eq!(shown("a/b", Some("[SLASH]")).as_deref(), Some("a[SLASH]b"));
        assert_eq!(shown("...", None).as_deref(), Some("..."));
    }

    #[test]
    fn pattern_has_a_wildcard_wherever_a_slash_may_have_been() {
        assert_eq!(pattern("a_b_c_d_e_f", None), None, "they are listed");
        assert_eq!(pattern("a_b_c_d_e_f_g%", None).as_deref(), Some("a_b_c_d_e_f_g\\%"));
        assert_eq!(pattern("______\\", Some("_")).as_deref(), Some("______\\\\"));
        assert_eq!(pattern("a_b_c_d_e_f_g", Some("[S]")), None);
        assert_eq!(pattern("a_[S]b[S][S][S][S][S]", Some("[S]")).as_deref(), Some("a\\_%b%"));
        assert_eq!(pattern("SSS", Some("SS")).as_deref(), Some("%"), "they overlap");
        assert_eq!(pattern("%SSS", Some("SS")).as_deref(), Some("\\%%"));
        assert_eq!(pattern("a_b_c_d_e_f_g", Some("")), None);
    }

    #[test]
    fn few_places_are_listed_with_slashes_and_without() {
        assert_eq!(candidates("a_b_c", None), ["a_b_c", "a/b/c", "a_b/c", "a/b_c"]);
        assert_eq!(candidates("foo[SLASH]bar", Some("[SLASH]")), ["foo[SLASH]bar", "foo/bar"]);
        assert_eq!(candidates("__", None), ["__", "//", "_/", "/_", ".."]);
        assert_eq!(candidates("plain", None), ["plain"]);
    }

    /// SQL's `like`.
    fn is_like(text: &[char], pattern: &[char]) -> bool {
        match pattern {
            [] => text.is_empty(),
            ['%', rest @ ..] => (0..=text.len()).any(|skipped| is_like(&text[skipped..], rest)),
            ['_', rest @ ..] => !text.is_empty() && is_like(&text[1..], rest),
            ['\\', literal, rest @ ..] | [literal, rest @ ..] => {
                text.first() == Some(literal) && is_like(&text[1..], rest)
            }
        }
    }

    proptest! {
        /// Whatever an object is called, its shown name leads back to it: directly, or by the pattern.
        #[test]
        fn shown_names_lead_back(name in "[ab_%/.\\\\é]{1,7}", substitution in proptest::option::of("_|[SX]{1,3}|é")) {
            let substitution = substitution.as_deref();
            let shown = String::from_utf8(shown(&name, substitution).expect("has a name")).expect("utf-8");
            prop_assert!(!shown.is_empty() && !shown.contains('/') && shown != "." && shown != "..");
            let characters = |text: &str| text.chars().collect::<Vec<_>>();
            let matches = |pattern: String| is_like(&characters(&name), &characters(&pattern));
            let is_candidate = candidates(&shown, substitution).contains(&name);
            prop_assert!(is_candidate || pattern(&shown, substitution).is_some_and(matches));
        }
    }
}
