//! Puts the layers of the configuration on top of each other, and says of a bad value which layer it came from.

use std::path::Path;

use toml::{Table, Value};

use super::{Config, Error};

const DEFAULT: &str = include_str!("../../config/default.toml");
const PREFIX: &str = "BULK_EXPORT__";

struct Layer {
    name: String,
    table: Table,
}

/// Reads the defaults, the file and the environment.
pub(super) fn read(file: Option<&Path>) -> Result<Config, Error> {
    let environment =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    merge(file, environment)
}

fn merge(file: Option<&Path>, environment: impl Iterator<Item = (String, String)>) -> Result<Config, Error> {
    let default = Layer { name: "config/default.toml".into(), table: parse("config/default.toml", DEFAULT)? };
    let mut layers = Vec::new();
    if let Some(path) = file {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
        let name = path.display().to_string();
        layers.push(Layer { table: parse(&name, &text)?, name });
    }
    layers.extend(from_environment(environment, &default.table)?);
    let mut merged = default.table.clone();
    for layer in &layers {
        overlay(&mut merged, &layer.table);
    }
    layers.insert(0, default);
    serde_path_to_error::deserialize(Value::Table(merged)).map_err(|error| {
        let path = error.path().to_string();
        Error::Value { layer: layer_of(&layers, &path), message: error.inner().message().to_owned(), path }
    })
}

fn parse(layer: &str, text: &str) -> Result<Table, Error> {
    text.parse().map_err(|error: toml::de::Error| Error::Syntax { layer: layer.to_owned(), message: error.to_string() })
}

/// One layer per variable, so that an error can name it.
fn from_environment(environment: impl Iterator<Item = (String, String)>, default: &Table) -> Result<Vec<Layer>, Error> {
    let mut layers = Vec::new();
    for (name, text) in environment {
        let path = match name.strip_prefix(PREFIX) {
            Some(path) => path.to_ascii_lowercase(),
            None if name == "DATABASE_URL" => "database__url".to_owned(),
            None => continue,
        };
        let Some((section, key)) = path.split_once("__") else {
            return Err(Error::Value {
                layer: format!("environment variable {name}"),
                path,
                message: format!("should be {PREFIX}SECTION__KEY"),
            });
        };
        let default = default.get(section).and_then(|section| section.get(key));
        let value = match default {
            Some(Value::String(_)) | None => Value::String(text),
            Some(_) => typed(&name, &text)?,
        };
        let table = Table::from_iter([(section.to_owned(), Value::Table(Table::from_iter([(key.to_owned(), value)])))]);
        layers.push((name == "DATABASE_URL", Layer { name: format!("environment variable {name}"), table }));
    }
    // The variable of our own name is the more deliberate one, so DATABASE_URL goes below it.
    layers.sort_by_key(|(is_database_url, _)| !is_database_url);
    Ok(layers.into_iter().map(|(_, layer)| layer).collect())
}

/// Reads a number, boolean or list as TOML does.
fn typed(name: &str, text: &str) -> Result<Value, Error> {
    let layer = format!("environment variable {name}");
    parse(&layer, &format!("value = {text}"))?
        .remove("value")
        .ok_or(Error::Syntax { layer, message: "empty".to_owned() })
}

fn overlay(base: &mut Table, top: &Table) {
    for (key, value) in top {
        match (base.get_mut(key), value) {
            (Some(Value::Table(base)), Value::Table(top)) => overlay(base, top),
            _ => {
                base.insert(key.clone(), value.clone());
            }
        }
    }
}

/// The topmost layer that says something at `section.key`.
fn layer_of(layers: &[Layer], path: &str) -> String {
    let mut names = path.split(['.', '[']);
    let (section, key) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
    layers
        .iter()
        .rev()
        .find(|layer| match layer.table.get(section) {
            Some(Value::Table(table)) => key.is_empty() || key == "?" || table.contains_key(key),
            other => other.is_some(),
        })
        .map_or_else(|| "configuration".to_owned(), |layer| layer.name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> Result<Config, Error> {
        let variables: Vec<_> = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        merge(None, variables.into_iter())
    }

    #[test]
    fn the_defaults_are_valid_as_they_stand() {
        with(&[]).unwrap().validate().unwrap();
    }

    #[test]
    fn the_environment_overrides_by_the_type_of_the_default() {
        let config = with(&[
            ("BULK_EXPORT__EXPORT__WORKERS", "7"),
            ("BULK_EXPORT__RETENTION__FILES", "3s"),
            ("DATABASE_URL", "postgres://low"),
            ("BULK_EXPORT__DATABASE__URL", "postgres://high"),
        ])
        .unwrap();
        assert_eq!(config.export.workers, 7);
        assert_eq!(config.retention.files.as_secs(), 3);
        assert_eq!(config.database_url(), Some("postgres://high"));
    }

    #[test]
    fn an_error_names_the_layer_and_the_key() {
        let error = with(&[("BULK_EXPORT__EXPORT__WORKERSS", "7")]).unwrap_err().to_string();
        assert!(error.contains("BULK_EXPORT__EXPORT__WORKERSS"), "{error}");
        assert!(error.contains("unknown field"), "{error}");
        let error = with(&[("BULK_EXPORT__EXPORT__LEASE", "soon")]).unwrap_err().to_string();
        assert!(error.contains("BULK_EXPORT__EXPORT__LEASE") && error.contains("export.lease"), "{error}");
    }

    #[test]
    fn an_origin_is_written_as_browsers_write_it() {
        let problem = |origin: &str| {
            let list = format!("[{origin:?}]");
            with(&[("BULK_EXPORT__HTTP__CORS_ORIGINS", &list)]).unwrap().validate().err().map(|error| error.to_string())
        };
        for good in ["*", "https://app.example.org", "http://localhost:3000"] {
            assert_eq!(problem(good), None);
        }
        for bad in ["", "app.example.org", "https://app.example.org/", "https://App.example.org", "https://a.b:443"] {
            assert!(problem(bad).unwrap().contains("http.cors_origins"), "{bad}");
        }
    }

    #[test]
    fn only_types_outside_the_compartment_come_by_reference() {
        let problem = |name: &str| {
            let list = format!("[\"Location\", {name:?}]");
            let config = with(&[("BULK_EXPORT__INCLUDE__REFERENCED", &list)]);
            config.and_then(|config| config.validate()).err().map(|error| error.to_string())
        };
        for good in ["Practitioner", "Organization", "Medication", "Location"] {
            assert_eq!(problem(good), None);
        }
        for bad in ["Observation", "Patient", "Binary", "practitioner", "Doctor"] {
            let text = problem(bad).unwrap();
            assert!(text.contains("include.referenced") && text.contains(bad), "{text}");
        }
    }

    #[test]
    fn a_secret_is_not_printed() {
        let config = with(&[("DATABASE_URL", "postgres://u:hunter2@h/d")]).unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
    }

    #[test]
    fn the_shipped_ehealth_file_is_valid() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/ehealth.toml");
        merge(Some(Path::new(path)), std::iter::empty()).unwrap().validate().unwrap();
    }
}
