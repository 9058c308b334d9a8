//! The command line: our own arguments among those that cargo gives to every test program.

/// What is asked for.
#[derive(Debug, Default)]
pub struct Arguments {
    /// Minutes instead of seconds, and the scenarios that are timed.
    pub long: bool,
    /// The seed to replay.
    pub seed: Option<u64>,
    /// Only this scenario.
    pub only: Option<String>,
    /// Say what there is, and run nothing.
    pub list: bool,
    /// The tests asked for are others.
    pub is_filtered_out: bool,
}

/// The one test there is, as `cargo test <filter>` sees it.
pub const NAME: &str = "chaos";

impl Arguments {
    pub fn read() -> Result<Self, String> {
        Self::parse(std::env::args().skip(1))
    }

    fn parse(mut given: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self::default();
        let (mut filters, mut is_exact, mut is_ignored) = (Vec::new(), false, false);
        while let Some(argument) = given.next() {
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (argument, None),
            };
            let mut value = || value.clone().or_else(|| given.next()).ok_or(format!("{name} wants a value"));
            match name.as_str() {
                "--long" => arguments.long = true,
                "--seed" => {
                    let seed = value()?;
                    arguments.seed = Some(seed.parse().map_err(|_| format!("--seed {seed} is no number"))?);
                }
                "--only" => arguments.only = Some(value()?),
                "--list" => arguments.list = true,
                "--exact" => is_exact = true,
                "--ignored" => is_ignored = true,
                "--skip" => arguments.is_filtered_out |= NAME.contains(&value()?),
                // libtest's, with a value.
                "--test-threads" | "--format" | "--color" | "--logfile" | "--shuffle-seed" | "-Z" => drop(value()?),
                flag if flag.starts_with('-') => {}
                filter => filters.push(filter.to_owned()),
            }
        }
        let fits = |filter: &String| if is_exact { filter == NAME } else { NAME.contains(filter.as_str()) };
        arguments.is_filtered_out |= is_ignored || !(filters.is_empty() || filters.iter().any(fits));
        Ok(arguments)
    }
}
