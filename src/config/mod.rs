//! Settings: layers of tables (defaults < file < environment < flags), resolved once.

mod layer;
mod settings;

pub use layer::{ConfigError, Layer};
pub use settings::{Backend, Instances, MAY_DIFFER, Sandbox, Settings};

/// Joins the layers, later ones winning, over the defaults.
///
/// # Errors
/// [`ConfigError::Value`] names the key that is unknown or has the wrong type.
pub fn resolve(layers: impl IntoIterator<Item = Layer>) -> Result<Settings, ConfigError> {
    let mut all = Layer::default();
    layers.into_iter().for_each(|layer| all.over(layer));
    let settings = all.settings()?;
    settings.check()?;
    Ok(settings)
}
