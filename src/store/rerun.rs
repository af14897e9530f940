//! Which episodes a rerun takes. Pure.

use super::state::State;
use crate::domain::{Class, EpisodeId};
use std::collections::HashSet;

/// The outstanding episodes, and the committed ones whose counting attempt failed.
///
/// With `classes`, of the failed only those of these classes; with `episodes`, of all only these. The outstanding episodes of a
/// quarantined instance go with class `task`.
#[must_use]
pub fn select(state: &State, classes: &[Class], episodes: &[EpisodeId]) -> Vec<EpisodeId> {
    let named: HashSet<&EpisodeId> = episodes.iter().collect();
    let class_fits = |class: Class| classes.is_empty() || classes.contains(&class);
    let wanted = state.episodes().filter(|(id, episode)| {
        let because = match episode.counting().and_then(|c| c.class()) {
            _ if episode.outstanding() => !state.quarantined().contains_key(&id.instance) || class_fits(Class::Task),
            Some(class) => class_fits(class),
            None => false,
        };
        because && (named.is_empty() || named.contains(id))
    });
    wanted.map(|(id, _)| id).collect()
}
