//! The command line as Firecracker and its jailer read it: long names only, a value is the next word and never begins
//! with `--`, what follows a lone `--` is passed on, and what is not known is an error.

use std::collections::BTreeMap;

/// What an argument takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// Nothing.
    Nothing,
    /// One value, once.
    Value,
    /// A value each time.
    Values,
}

/// An argument that is known.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Without the dashes.
    pub name: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// It must be there.
    pub required: bool,
    /// Another that must be there with it.
    pub needs: Option<&'static str>,
    /// Another that must not be there with it.
    pub excludes: Option<&'static str>,
}

impl Known {
    /// One that takes a value.
    #[must_use]
    pub const fn value(name: &'static str) -> Self {
        Self { name, takes: Takes::Value, required: false, needs: None, excludes: None }
    }

    /// One that takes nothing.
    #[must_use]
    pub const fn flag(name: &'static str) -> Self {
        Self { takes: Takes::Nothing, ..Self::value(name) }
    }

    /// One that may be there several times.
    #[must_use]
    pub const fn values(name: &'static str) -> Self {
        Self { takes: Takes::Values, ..Self::value(name) }
    }

    /// One with a value that must be there.
    #[must_use]
    pub const fn required(name: &'static str) -> Self {
        Self { required: true, ..Self::value(name) }
    }
}

/// What is wrong with a command line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArgumentError {
    /// Two that exclude each other.
    #[error("Argument '{1}' cannot be used together with argument '{0}'.")]
    Forbidden(String, String),
    /// One that must be there.
    #[error("Argument '{0}' required, but not found.")]
    Missing(String),
    /// Without its value.
    #[error("The argument '{0}' requires a value, but none was supplied.")]
    NoValue(String),
    /// Not known.
    #[error("Found argument '{0}' which wasn't expected, or isn't valid in this context.")]
    Unexpected(String),
    /// Twice.
    #[error("The argument '{0}' was provided more than once.")]
    Twice(String),
}

/// A command line that was understood.
#[derive(Debug, Default)]
pub struct Arguments {
    given: BTreeMap<&'static str, Vec<String>>,
    rest: Vec<String>,
    asks: Option<Question>,
}

/// A command line that only wants to be told something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// `--help`
    Help,
    /// `--version`
    Version,
}

impl Arguments {
    /// Reads the words after the program's name.
    ///
    /// # Errors
    /// When it is not what is known.
    pub fn parse(known: &[Known], words: impl IntoIterator<Item = String>) -> Result<Self, ArgumentError> {
        let mut own: Vec<String> = words.into_iter().collect();
        let mut arguments = Self::default();
        if let Some(end) = own.iter().position(|word| word == "--") {
            arguments.rest = own.split_off(end).into_iter().skip(1).collect();
        }
        // These win over everything else, also over mistakes.
        if own.iter().any(|word| word == "--help" || word == "-h") {
            return Ok(Self { asks: Some(Question::Help), ..arguments });
        }
        if own.iter().any(|word| word == "--version") {
            return Ok(Self { asks: Some(Question::Version), ..arguments });
        }
        let mut own = own.into_iter();
        while let Some(word) = own.next() {
            let name = word.strip_prefix("--").ok_or_else(|| ArgumentError::Unexpected(word.clone()))?;
            let found = known.iter().find(|known| known.name == name);
            let found = found.ok_or_else(|| ArgumentError::Unexpected(name.to_owned()))?;
            let values = arguments.given.entry(found.name).or_default();
            if found.takes == Takes::Nothing {
                if !values.is_empty() {
                    return Err(ArgumentError::Twice(name.to_owned()));
                }
                values.push(String::new());
                continue;
            }
            if found.takes == Takes::Value && !values.is_empty() {
                return Err(ArgumentError::Twice(name.to_owned()));
            }
            let value = own.next().filter(|value| !value.starts_with("--"));
            values.push(value.ok_or_else(|| ArgumentError::NoValue(name.to_owned()))?);
        }
        arguments.checked(known)
    }

    fn checked(self, known: &[Known]) -> Result<Self, ArgumentError> {
        for known in known {
            if !self.has(known.name) {
                if known.required {
                    return Err(ArgumentError::Missing(known.name.to_owned()));
                }
                continue;
            }
            if let Some(needed) = known.needs.filter(|needed| !self.has(needed)) {
                return Err(ArgumentError::Missing(needed.to_owned()));
            }
            if let Some(other) = known.excludes.filter(|other| self.has(other)) {
                return Err(ArgumentError::Forbidden(known.name.to_owned(), other.to_owned()));
            }
        }
        Ok(self)
    }

    /// Whether it is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// Its value.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.values(name).first().map(String::as_str)
    }

    /// Its values.
    #[must_use]
    pub fn values(&self, name: &str) -> &[String] {
        self.given.get(name).map_or(&[], Vec::as_slice)
    }

    /// What follows the lone `--`.
    #[must_use]
    pub fn rest(&self) -> &[String] {
        &self.rest
    }

    /// What is asked instead of a start.
    #[must_use]
    pub fn asks(&self) -> Option<Question> {
        self.asks
    }
}

/// An id that no machine may have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadId {
    /// A character.
    #[error("Invalid char ({0}) at position {1}")]
    Character(char, usize),
    /// Too short or too long.
    #[error("Invalid len ({0});  the length must be between 1 and 64")]
    Length(usize),
}

/// Letters, digits and hyphens, at most 64.
///
/// # Errors
/// When it has something else.
pub fn checked_instance_id(id: &str) -> Result<(), BadId> {
    if id.is_empty() || id.len() > 64 {
        return Err(BadId::Length(id.len()));
    }
    let bad = id.chars().enumerate().find(|(_, letter)| *letter != '-' && !letter.is_alphanumeric());
    bad.map_or(Ok(()), |(at, letter)| Err(BadId::Character(letter, at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[Known] = &[
        Known::required("id"),
        Known::flag("quiet"),
        Known::values("limit"),
        Known { needs: Some("file"), ..Known::flag("alone") },
        Known { excludes: Some("quiet"), ..Known::value("file") },
    ];

    fn parse(line: &str) -> Result<Arguments, ArgumentError> {
        Arguments::parse(KNOWN, line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn what_is_known_is_read_and_the_rest_passed_on() {
        let read = parse("--id a --limit x=1 --limit y=2 --quiet -- --id b").unwrap();
        assert_eq!((read.value("id"), read.values("limit").len(), read.has("quiet")), (Some("a"), 2, true));
        assert_eq!(read.rest(), ["--id", "b"]);
        assert_eq!(parse("--nonsense --version").unwrap().asks(), Some(Question::Version));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            ("", ArgumentError::Missing("id".into())),
            ("--id", ArgumentError::NoValue("id".into())),
            ("--id --quiet", ArgumentError::NoValue("id".into())),
            ("--id a --id b", ArgumentError::Twice("id".into())),
            ("--id a --quiet --quiet", ArgumentError::Twice("quiet".into())),
            ("--id=a", ArgumentError::Unexpected("id=a".into())),
            ("-i a", ArgumentError::Unexpected("-i".into())),
            ("--id a --alone", ArgumentError::Missing("file".into())),
            ("--id a --file f --quiet", ArgumentError::Forbidden("file".into(), "quiet".into())),
        ];
        for (line, error) in cases {
            assert_eq!(parse(line).unwrap_err(), error, "{line}");
        }
    }

    #[test]
    fn ids_have_letters_digits_and_hyphens() {
        checked_instance_id("a-1").unwrap();
        assert_eq!(checked_instance_id("a_1"), Err(BadId::Character('_', 1)));
        assert_eq!(checked_instance_id(""), Err(BadId::Length(0)));
        assert_eq!(checked_instance_id(&"a".repeat(65)), Err(BadId::Length(65)));
    }
}
