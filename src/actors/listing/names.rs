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

/// The names that an object shown as `name` may have, the likeliest first, as far as that can be told.
pub fn candidates(name: &str, substitution: Option<&str>) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    if let Some(text) = substitution.filter(|text| !text.is_empty() && name.contains(text)) {
        names.push(name.replace(text, "/"));
    }
    names
}

/// May another object than those of [`candidates`] be shown under this name? Then only the whole list can tell.
pub fn is_ambiguous(name: &str, substitution: Option<&str>) -> bool {
    match substitution {
        Some(text) => {
            let places = name.as_bytes().windows(text.len().max(1)).filter(|window| *window == text.as_bytes());
            matches!(name, "_" | "__") || places.count() > 1
        }
        None => name.contains('_'),
    }
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

    proptest! {
        /// Whatever an object is called, its shown name leads back to it: directly, or by reading the whole list.
        #[test]
        fn shown_names_lead_back(name in "[ab_/.]{1,6}", substitution in proptest::option::of("[SX]{1,3}")) {
            let substitution = substitution.as_deref();
            let shown = String::from_utf8(shown(&name, substitution).expect("has a name")).expect("utf-8");
            prop_assert!(!shown.is_empty() && !shown.contains('/') && shown != "." && shown != "..");
            prop_assert!(candidates(&shown, substitution).contains(&name) || is_ambiguous(&shown, substitution));
        }
    }
}
