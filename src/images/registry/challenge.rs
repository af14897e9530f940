//! How a registry wants to be convinced: `WWW-Authenticate`. Pure.

/// What a 401 asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    /// A token, which the realm gives.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// The best of the challenges: a token where there is one to be had.
    #[must_use]
    pub fn best<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut all: Vec<Challenge> = headers.filter_map(Self::read).collect();
        let bearer = all.iter().position(|one| matches!(one, Challenge::Bearer { .. })).unwrap_or(0);
        (!all.is_empty()).then(|| all.swap_remove(bearer))
    }

    fn read(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => Some(Challenge::Basic),
            "bearer" => {
                let parameters = parameters(rest);
                let get = |name: &str| parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone());
                Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") })
            }
            _ => None,
        }
    }
}

/// `key=value, key="value with , and \" in it"`.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => unquoted(quoted),
            None => after.split_once(',').map_or((after.trim().to_owned(), ""), |(value, next)| (value.trim().to_owned(), next)),
        };
        found.push((key.trim().trim_start_matches(',').trim().to_owned(), value));
        rest = next;
    }
    found
}

/// What stands before the closing quote, and what after it.
fn unquoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_preferred_and_quotes_are_read() {
        let header = r#"Bearer realm="https://auth.example.com/token?a=b",service="reg,istry" , scope="repository:a/b:pull,push""#;
        let found = Challenge::best(["Basic realm=\"x\"", header].into_iter()).unwrap();
        let Challenge::Bearer { realm, service, scope } = found else { panic!() };
        assert_eq!(realm, "https://auth.example.com/token?a=b");
        assert_eq!(service.as_deref(), Some("reg,istry"));
        assert_eq!(scope.as_deref(), Some("repository:a/b:pull,push"));
        assert_eq!(Challenge::best(["basic"].into_iter()), Some(Challenge::Basic));
        let bare = Challenge::read("bearer realm=https://x/t, service=y").unwrap();
        assert_eq!(bare, Challenge::Bearer { realm: "https://x/t".into(), service: Some("y".into()), scope: None });
    }

    #[test]
    fn nonsense_is_none() {
        for nonsense in ["", "Negotiate", "Bearer", "Bearer service=\"x\"", "Bearer realm", "=\"\\"] {
            assert_eq!(Challenge::best([nonsense].into_iter()), None, "{nonsense}");
        }
        assert_eq!(parameters("a=\"b\\"), [("a".to_owned(), "b".to_owned())]);
    }
}
