//! Puts the layers of the configuration on top of each other, and says of a bad value which layer it came from.

use std::collections::BTreeMap;
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

/// Of what is no TOML only the place is told: a secret may stand there.
fn parse(layer: &str, text: &str) -> Result<Table, Error> {
    text.parse().map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        Error::Syntax { layer: layer.to_owned(), message: format!("line {line}: {}", error.message()) }
    })
}

/// One layer per variable, so that an error can name it.
fn from_environment(environment: impl Iterator<Item = (String, String)>, default: &Table) -> Result<Vec<Layer>, Error> {
    let mut layers = BTreeMap::new();
    for (variable, text) in environment {
        let (rank, path) = match (variable.strip_prefix(PREFIX), variable.as_str()) {
            (Some(path), _) => (Rank::Own, path.to_ascii_lowercase()),
            (None, "DATABASE_URL") => (Rank::Common, "database__url".to_owned()),
            (None, "DATABASE_URL_FILE") => (Rank::Common, "database__url__file".to_owned()),
            (None, _) => continue,
        };
        let name = format!("environment variable {variable}");
        if !path.contains("__") {
            let message = format!("should be {PREFIX}SECTION__KEY");
            return Err(Error::Value { layer: name, path, message });
        }
        let names: Vec<&str> = path.split("__").collect();
        let value = match value_at(default, &names) {
            Some(Value::String(_)) | None => Value::String(text),
            Some(_) => typed(&name, &text)?,
        };
        let nested =
            names.iter().rev().fold(value, |value, name| Table::from_iter([((*name).to_owned(), value)]).into());
        if let Value::Table(table) = nested {
            layers.insert((rank, path), Layer { name, table });
        }
    }
    // A secret said in two ways may be two secrets.
    let twice = layers.keys().find(|(rank, path)| layers.contains_key(&(*rank, format!("{path}__file"))));
    match twice.and_then(|twice| layers.get(twice)) {
        Some(Layer { name, .. }) => {
            Err(Error::Invalid(vec![format!("{name} is set, and the one that names its file too")]))
        }
        None => Ok(layers.into_values().collect()),
    }
}

/// The variable of our own name is the more deliberate one, so that which many programs know goes below it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Common,
    Own,
}

fn value_at<'a>(table: &'a Table, names: &[&str]) -> Option<&'a Value> {
    let (first, rest) = names.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, name| value.as_table()?.get(*name))
}

/// Reads a number, boolean or list as TOML does.
fn typed(layer: &str, text: &str) -> Result<Value, Error> {
    parse(layer, &format!("value = {text}"))?
        .remove("value")
        .ok_or(Error::Syntax { layer: layer.to_owned(), message: "empty".to_owned() })
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
    let names: Vec<&str> = path.split(['.', '[']).collect();
    let layer = layers.iter().rev().find(|layer| says_something(&layer.table, &names));
    layer.map_or_else(|| "configuration".to_owned(), |layer| layer.name.clone())
}

fn says_something(table: &Table, names: &[&str]) -> bool {
    match names.split_first() {
        None | Some((&("" | "?"), _)) => true,
        Some((name, rest)) => match table.get(*name) {
            Some(Value::Table(inner)) => says_something(inner, rest),
            found => found.is_some(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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
        let issuers = "[{ issuer = 'https://i.example', audience = [], introspection = \
            { url = 'https://i.example/i', client_id = 'c', client_secret = 'hunter2' } }]";
        let variables = [("DATABASE_URL", "postgres://u:hunter2@h/d"), ("BULK_EXPORT__AUTH__ISSUERS", issuers)];
        let config = with(&variables).unwrap();
        assert!(!format!("{config:?} {config:#?}").contains("hunter2"));
    }

    #[test]
    fn a_secret_may_come_from_a_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"postgres://u:hunter2@h/d\n").unwrap();
        let path = file.path().to_str().unwrap();
        for variable in ["DATABASE_URL_FILE", "BULK_EXPORT__DATABASE__URL__FILE"] {
            let config = with(&[(variable, path)]).unwrap();
            assert_eq!(config.database_url(), Some("postgres://u:hunter2@h/d"));
            assert!(!format!("{config:?} {config:#?}").contains("hunter2"));
            let error = with(&[(variable, "/there/is/none")]).unwrap_err().to_string();
            assert!(error.contains(variable) && error.contains("database.url") && error.contains("/there/is/none"));
        }
        let own_wins = with(&[("BULK_EXPORT__DATABASE__URL", "postgres://high"), ("DATABASE_URL_FILE", path)]);
        assert_eq!(own_wins.unwrap().database_url(), Some("postgres://high"));
        let own_wins = with(&[("BULK_EXPORT__DATABASE__URL__FILE", path), ("DATABASE_URL", "postgres://low")]);
        assert_eq!(own_wins.unwrap().database_url(), Some("postgres://u:hunter2@h/d"));
    }

    #[test]
    fn a_secret_is_said_in_one_way() {
        for name in ["DATABASE_URL", "BULK_EXPORT__DATABASE__URL"] {
            let file = if name == "DATABASE_URL" { "DATABASE_URL_FILE" } else { "BULK_EXPORT__DATABASE__URL__FILE" };
            let file_at = tempfile::NamedTempFile::new().unwrap();
            let both = [(name, "postgres://u:hunter2@h/d"), (file, file_at.path().to_str().unwrap())];
            let error = with(&both).unwrap_err().to_string();
            assert!(error.contains(name) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn what_is_no_toml_is_not_repeated() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"[database]\nurl = \"postgres://u:hunter2@h\nreserve = 1\n").unwrap();
        let error = merge(Some(file.path()), std::iter::empty()).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
        let error = with(&[("BULK_EXPORT__AUTH__ISSUERS", "[{ client_secret = \"hunter2 }]")]).unwrap_err().to_string();
        assert!(error.contains("BULK_EXPORT__AUTH__ISSUERS") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_section_may_be_in_a_section() {
        let config = with(&[("BULK_EXPORT__HTTP__TLS__KEY", "/key.pem")]).unwrap();
        assert_eq!(config.http.tls.key.as_deref(), Some(Path::new("/key.pem")));
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("http.tls.certificate"), "{error}");
        let error = with(&[("BULK_EXPORT__HTTP__TLS__KEI", "/key.pem")]).unwrap_err().to_string();
        assert!(error.contains("BULK_EXPORT__HTTP__TLS__KEI") && error.contains("unknown field"), "{error}");
    }

    #[test]
    fn the_shipped_ehealth_file_is_valid() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/config/ehealth.toml");
        merge(Some(Path::new(path)), std::iter::empty()).unwrap().validate().unwrap();
    }
}
