//! What a user may set of limits that several processes share.

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// Environment variable that is asked for the password unless another is named.
pub const PASSWORD_ENV: &str = "SWEROLL_REDIS_PASSWORD";

/// The table `[endpoint.share]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Redis 5 or later, or what speaks its protocol and runs its scripts, as `redis://HOST:6379/0`, `rediss://` with TLS or
    /// `unix:///SOCKET`; a user's name may stand in it, a password may not. Empty: nothing is shared.
    #[serde(deserialize_with = "without_password")]
    pub url: String,
    /// Processes with the same name share what they ask of the same address: one name for each key.
    pub name: String,
    /// Environment variable with the password. The default one may be absent, another may not.
    pub password_env: String,
    /// Processes that are taken to share, at least, while Redis cannot tell how many do.
    pub processes: u64,
    /// Seconds that Redis has for a connection, and for an answer.
    pub timeout_s: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { url: String::new(), name: "default".to_owned(), password_env: PASSWORD_ENV.to_owned(), processes: 1, timeout_s: 1.0 }
    }
}

/// Refuses a secret before it is written to a run directory; the message does not repeat it.
fn without_password<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let url = String::deserialize(from)?;
    let authority = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
    let authority = authority.split(['/', '?', '#']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    if user.is_some_and(|user| user.contains(':')) || url.to_ascii_lowercase().contains("pass=") {
        return Err(D::Error::custom(format!(
            "share.url holds a password: put it into the environment variable {PASSWORD_ENV}, or into one that share.password_env names"
        )));
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_no_setting() {
        let read = |url: &str| toml::from_str::<toml::Table>(&format!("url = '{url}'")).unwrap().try_into::<Settings>();
        for url in [
            "redis://:hunter2@h:6379",
            "rediss://me:hunter2@h/0",
            "me:hunter2@h",
            "unix:///run/r.sock?pass=hunter2",
            "redis://a:hunter2@b@h",
        ] {
            let error = read(url).unwrap_err().to_string();
            assert!(error.contains(PASSWORD_ENV) && !error.contains("hunter2"), "{error}");
        }
        for url in ["", "redis://h:6379/1", "rediss://me@h:6379", "unix:///run/redis.sock", "redis://[::1]:6379"] {
            assert_eq!(read(url).unwrap().url, url);
        }
    }
}
