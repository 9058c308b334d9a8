//! A secret of the configuration: written there, or in a file of its own. Nothing else holds one that is configured.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use toml::Value;

/// A text, or `{ file = "/run/secrets/x" }`: a file that is read once, at the start. Neither is ever printed.
#[derive(Clone, Default, Deserialize)]
#[serde(try_from = "Value")]
pub struct Secret {
    text: SecretString,
    file: Option<PathBuf>,
}

impl Secret {
    /// The secret itself; empty if there is none.
    pub(crate) fn expose(&self) -> &str {
        self.text.expose_secret()
    }

    /// The file it is from.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

#[cfg(test)]
impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self { text: text.into(), file: None }
    }
}

impl TryFrom<Value> for Secret {
    type Error = String;

    fn try_from(written: Value) -> Result<Self, String> {
        if let Value::String(text) = written {
            return Ok(Self { text: text.into(), file: None });
        }
        let members = written.as_table().filter(|members| members.len() == 1);
        match members.and_then(|members| members.get("file")?.as_str()).map(PathBuf::from) {
            Some(file) => Ok(Self { text: read(&file)?, file: Some(file) }),
            None => Err("should be a text, or { file = \"/path/of/a/file\" }".to_owned()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("file", &self.file).finish_non_exhaustive()
    }
}

/// The text of a file without the end of its last line. What is wrong is said without a word of what stands there.
fn read(file: &Path) -> Result<SecretString, String> {
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::InvalidData => format!("the file {} is no text in UTF-8", file.display()),
        _ => format!("cannot read the file {}: {error}", file.display()),
    };
    let text = File::open(file).and_then(io::read_to_string).map_err(unreadable)?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("the file {} is empty", file.display())),
        secret => Ok(secret.into()),
    }
}

/// Whether every user of the machine can read this file. One that is not there is for others to complain of.
pub(crate) fn is_readable_by_all(file: &Path) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(toml: &str) -> Result<String, String> {
        #[derive(Debug, Deserialize)]
        struct Section {
            secret: Secret,
        }
        let section: Result<Section, _> = toml::from_str(&format!("secret = {toml}"));
        section.map(|section| section.secret.expose().to_owned()).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn a_secret_is_a_text_or_what_stands_in_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = |content: &[u8]| {
            let path = folder.path().join(content.len().to_string());
            std::fs::write(&path, content).unwrap();
            format!("{{ file = {:?} }}", path.display().to_string())
        };
        assert_eq!(secret("'hunter2'").as_deref(), Ok("hunter2"));
        assert_eq!(secret("''").as_deref(), Ok(""));
        for content in ["hunter2", "hunter2\n", "hunter2\r\n"] {
            assert_eq!(secret(&file(content.as_bytes())).as_deref(), Ok("hunter2"));
        }
        assert_eq!(secret(&file(b" two words \n\n")).as_deref(), Ok(" two words "));
        for (content, what) in [(&b"\n"[..], "is empty"), (b"hunter2\xff", "is no text in UTF-8")] {
            let error = secret(&file(content)).unwrap_err();
            assert!(error.contains(what) && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_error_names_the_file_or_what_is_expected() {
        let missing = secret("{ file = '/there/is/none' }").unwrap_err();
        assert!(missing.contains("/there/is/none") && missing.contains("No such file"), "{missing}");
        for wrong in ["7", "['hunter2']", "{ text = 'hunter2' }", "{ file = '/a', text = 'hunter2' }"] {
            let error = secret(wrong).unwrap_err();
            assert!(error.contains("a text, or { file") && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn it_is_seen_who_may_read_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, by_all) in [(0o600, false), (0o640, false), (0o644, true), (0o604, true)] {
            std::fs::set_permissions(file.path(), PermissionsExt::from_mode(mode)).unwrap();
            assert_eq!(is_readable_by_all(file.path()), by_all, "{mode:o}");
        }
        assert!(!is_readable_by_all(Path::new("/there/is/none")));
    }
}
