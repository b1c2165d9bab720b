//! `--resource-limit`: two are known, and open files are limited also when nobody says so.

use rustix::process::{Resource, Rlimit, setrlimit};

/// Open files when nothing is said.
const OPEN_FILES: u64 = 2048;

/// Not understood, or not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LimitError {
    #[error("Invalid format for resources limits: {0}")]
    Format(String),
    #[error("Invalid limit value for resource: {0}")]
    Value(String),
    #[error("Invalid resource argument: {0}")]
    Name(String),
    #[error("Failed to set limit for resource: {0}")]
    Set(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    file_size: Option<u64>,
    open_files: u64,
}

impl Limits {
    pub(crate) fn new(given: &[String]) -> Result<Self, LimitError> {
        let mut limits = Self { file_size: None, open_files: OPEN_FILES };
        for limit in given {
            let (name, value) = limit.split_once('=').ok_or_else(|| LimitError::Format(limit.clone()))?;
            let value = value.parse().map_err(|_| LimitError::Value(value.to_owned()))?;
            match name {
                "fsize" => limits.file_size = Some(value),
                "no-file" => limits.open_files = value,
                _ => return Err(LimitError::Name(name.to_owned())),
            }
        }
        Ok(limits)
    }

    /// Sets them for this process and what it starts.
    pub(crate) fn install(&self) -> Result<(), LimitError> {
        let to = |value| Rlimit { current: Some(value), maximum: Some(value) };
        if let Some(size) = self.file_size {
            setrlimit(Resource::Fsize, to(size)).map_err(|_| LimitError::Set("size of file"))?;
        }
        setrlimit(Resource::Nofile, to(self.open_files)).map_err(|_| LimitError::Set("number of file descriptors"))
    }
}
