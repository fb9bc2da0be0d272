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

/// The names that an object shown as `name` may have, the likeliest first, as far as that can be told ([`pattern`]).
pub fn candidates(name: &str, substitution: Option<&str>) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    let text = substitute(substitution);
    if !text.is_empty() && name.contains(text) {
        names.push(name.replace(text, "/"));
    }
    match name {
        "_" => names.push(".".to_owned()),
        "__" => names.push("..".to_owned()),
        _ => {}
    }
    names
}

/// A pattern of SQL's `like` for the names that an object shown as `name` may have, if there are others than [`candidates`]:
/// wherever the substitute stands there may be a slash, and which of them are cannot be told. It matches few others besides, all
/// of which [`shown`] sorts out.
pub fn pattern(name: &str, substitution: Option<&str>) -> Option<String> {
    let text = substitute(substitution);
    let starts = |position: &usize| !text.is_empty() && name.as_bytes()[*position..].starts_with(text.as_bytes());
    let places: Vec<usize> = (0..name.len()).filter(starts).collect();
    if places.len() < 2 {
        return None;
    }
    // As long as a slash, or longer and perhaps overlapping.
    let any = if text.chars().count() == 1 { '_' } else { '%' };
    let mut pattern = String::with_capacity(name.len());
    for (position, character) in name.char_indices() {
        match character {
            _ if places.iter().any(|place| (*place..*place + text.len()).contains(&position)) => {
                if any == '_' || !pattern.ends_with(any) {
                    pattern.push(any);
                }
            }
            '%' | '_' | '\\' => pattern.extend(['\\', character]),
            _ => pattern.push(character),
        }
    }
    Some(pattern)
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
        assert_eq!(pattern("a_b", None), None);
        assert_eq!(pattern("a_b_c%", None).as_deref(), Some("a_b_c\\%"));
        assert_eq!(pattern("_a\\_", Some("_")).as_deref(), Some("_a\\\\_"));
        assert_eq!(pattern("a_b_c", Some("[S]")), None);
        assert_eq!(pattern("a_[S]b[S]", Some("[S]")).as_deref(), Some("a\\_%b%"));
        assert_eq!(pattern("SSS", Some("SS")).as_deref(), Some("%"));
        assert_eq!(pattern("a_b_c", Some("")), None);
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
