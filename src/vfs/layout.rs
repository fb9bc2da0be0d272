//! What the top of the tree looks like (arv-mount.md 2.1), and the texts of its README files.

/// Something that can stand at the root of the mount or right below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Collections and projects by uuid or portable data hash.
    ById,
    /// Collections by portable data hash only.
    ByPdh,
    ByTag,
    Home,
    Shared,
    /// By uuid.
    Project(String),
    /// By uuid or portable data hash.
    Collection(String),
    /// A collection that exists in this mount only, by the name that it has at the top.
    Temporary(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layout {
    /// `README`, `by_id`, `by_tag`, `home`, `shared`.
    Default,
    /// Entries under names of the user's choice. Not empty.
    Custom(Vec<(String, Place)>),
    /// One place as the root.
    Single(Place),
}

impl Layout {
    /// Does anything in it change without our doing? Then it is worth listening to events.
    pub fn can_change(&self) -> bool {
        let can_change = |place: &Place| match place {
            Place::ByPdh | Place::Temporary(_) => false,
            Place::Collection(id) => is_uuid(id),
            _ => true,
        };
        match self {
            Layout::Default => true,
            Layout::Custom(entries) => entries.iter().any(|(_, place)| can_change(place)),
            Layout::Single(place) => can_change(place),
        }
    }
}

/// `xxxxx-yyyyy-zzzzzzzzzzzzzzz` of digits and small letters.
pub fn is_uuid(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 27
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            5 | 11 => *byte == b'-',
            _ => byte.is_ascii_digit() || byte.is_ascii_lowercase(),
        })
}

/// Is this uuid one of a group?
pub fn is_group(uuid: &str) -> bool {
    is_uuid(uuid) && uuid[5..].starts_with("-j7d0g-")
}

/// The portable data hash that a name begins with: alone or followed by hints (`+A…`), which upstream accepts too.
pub fn portable_data_hash(name: &str) -> Option<&str> {
    let (hash, rest) = name.split_at_checked(32)?;
    let digits = rest.strip_prefix('+')?;
    let end = digits.find('+').unwrap_or(digits.len());
    let is_hash = hash.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    let is_size = end > 0 && digits[..end].bytes().all(|byte| byte.is_ascii_digit());
    (is_hash && is_size).then(|| &name[..32 + 1 + end])
}

/// Text of the `README` at the top of the default tree.
pub fn welcome(host: &str, email: &str) -> String {
    format!(
        "Welcome to Arvados! This directory shows data in the Arvados cluster {host}, as seen by {email}.\n\
         \n\
         by_id    collections and projects by uuid or portable data hash: try  ls by_id/<uuid>\n\
         by_tag   collections that carry a tag\n\
         home     your home project\n\
         shared   projects that others share with you\n"
    )
}

/// Text of the `README` of a directory where things appear when they are named.
pub fn magic(by_uuid: bool) -> String {
    let projects = if by_uuid { "or its uuid, or a project by its uuid,\n" } else { "" };
    format!(
        "Name a collection by its portable data hash,\n{projects}and it appears in this directory: it looks empty because there are too many to list.\n\
         \n\
         Example:  ls d41d8cd98f00b204e9800998ecf8427e+0\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn identifiers_are_told_apart() {
        assert!(is_uuid("zzzzz-4zz18-aaaaaaaaaaaaaaa") && !is_uuid("zzzzz-4zz18-aaaaaaaaaaaaaa") && !is_uuid("ABC"));
        assert!(is_group("zzzzz-j7d0g-aaaaaaaaaaaaaaa") && !is_group("zzzzz-4zz18-aaaaaaaaaaaaaaa"));
        let empty = "d41d8cd98f00b204e9800998ecf8427e+0";
        assert_eq!(portable_data_hash(empty), Some(empty));
        assert_eq!(portable_data_hash("d41d8cd98f00b204e9800998ecf8427e+0+Ahint@x"), Some(empty));
        for wrong in [
            "",
            "d41d8cd98f00b204e9800998ecf8427e",
            "d41d8cd98f00b204e9800998ecf8427e+",
            "D41d8cd98f00b204e9800998ecf8427e+0",
            "d41d8cd98f00b204e9800998ecf8427e+0x",
        ] {
            assert_eq!(portable_data_hash(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn only_what_can_change_is_worth_listening_for() {
        let custom = |place| Layout::Custom(vec![("x".into(), place)]);
        assert!(Layout::Default.can_change() && custom(Place::ById).can_change());
        assert!(!custom(Place::ByPdh).can_change());
        assert!(!Layout::Single(Place::Collection("d41d8cd98f00b204e9800998ecf8427e+0".into())).can_change());
    }

    proptest! {
        #[test]
        fn no_name_makes_it_panic(name in ".{0,40}") {
            portable_data_hash(&name);
            is_group(&name);
        }
    }
}
