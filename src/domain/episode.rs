//! Names of what is executed: an episode is `(instance, sample)`, an attempt is one execution of it.

use super::InstanceId;
use serde::{Deserialize, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// The `sample`-th independent try (from 0) at an instance. Written `instance@sample`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct EpisodeId {
    pub instance: InstanceId,
    pub sample: u32,
}

/// Number of an execution of an episode, from 1. Only infrastructure failures and reruns cause another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Attempt(pub u32);

impl Attempt {
    pub const FIRST: Attempt = Attempt(1);

    #[must_use]
    pub fn next(self) -> Self {
        Attempt(self.0 + 1)
    }
}

/// One execution of one episode. Written `instance@sample.attempt`; this is also the trajectory's id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct AttemptId {
    pub episode: EpisodeId,
    pub attempt: Attempt,
}

/// A name that is not of the form it should have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct BadId {
    pub text: String,
    pub wanted: &'static str,
}

const EPISODE: &str = "an episode: write INSTANCE@SAMPLE, such as pypi_click_pr2219@0";
const ATTEMPT: &str = "an attempt: write INSTANCE@SAMPLE.ATTEMPT, such as pypi_click_pr2219@0.1";

impl fmt::Display for EpisodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.instance, self.sample)
    }
}

impl FromStr for EpisodeId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId { text: text.to_owned(), wanted: EPISODE };
        let (instance, sample) = text.rsplit_once('@').ok_or_else(bad)?;
        Ok(EpisodeId { instance: instance.parse().map_err(|_| bad())?, sample: sample.parse().map_err(|_| bad())? })
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.episode, self.attempt)
    }
}

impl FromStr for AttemptId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let bad = || BadId { text: text.to_owned(), wanted: ATTEMPT };
        let (episode, attempt) = text.rsplit_once('.').ok_or_else(bad)?;
        let attempt = attempt.parse().ok().filter(|n| *n > 0).ok_or_else(bad)?;
        Ok(AttemptId { episode: episode.parse().map_err(|_| bad())?, attempt: Attempt(attempt) })
    }
}

macro_rules! as_string {
    ($($name:ty),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl TryFrom<String> for $name {
            type Error = BadId;
            fn try_from(text: String) -> Result<Self, BadId> {
                text.parse()
            }
        }
    )*};
}
as_string!(EpisodeId, AttemptId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        for text in ["a__b-1@0.1", "x.y@2.z@17.3"] {
            assert_eq!(text.parse::<AttemptId>().unwrap().to_string(), text);
        }
        for text in ["", "a", "a@", "a@0", "a@0.0", "a@x.1", "@0.1", "a/b@0.1"] {
            assert!(text.parse::<AttemptId>().is_err(), "{text}");
        }
    }
}
