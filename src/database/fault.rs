//! What goes wrong with a database by itself, and goes away by itself: such work is worth another try.

use super::code;

/// What is wrong with the database for now, in words for the owner of an export; none if the same statement would fail
/// again.
///
/// The classes are those of SQLSTATE (PostgreSQL's documentation, appendix A).
pub(crate) fn transient(error: &sqlx::Error) -> Option<&'static str> {
    const AWAY: &str = "the database could not be reached";
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed => Some(AWAY),
        _ => of_code(&code(error)?),
    }
}

fn of_code(code: &str) -> Option<&'static str> {
    let cause = match code {
        "55000" => "the database did not let the server in",
        "25006" => "the database could only be read, as after a failover",
        "25P03" => "a transaction stood idle for too long",
        "53100" => "the disk of the database is full",
        "53200" => "the database has no memory left",
        "53300" => "the database has too many connections",
        "55006" | "55P03" => "something in the database was locked for too long",
        "57014" => "a statement took longer than the database lets it",
        "57P01" | "57P02" | "57P03" | "57P05" => "the database was shut down, or a connection ended by it",
        _ => match code.get(..2)? {
            "28" | "3D" => "the database did not let the server in",
            "08" => "the connection to the database was lost",
            "40" => "another transaction was in the way",
            "53" => "the database has run out of something it needs",
            "58" => "the system under the database failed",
            _ => return None,
        },
    };
    Some(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_away_by_itself_is_told_from_what_does_not() {
        for code in ["08006", "40001", "40P01", "53100", "53300", "57014", "57P01", "57P03", "58030", "25006"] {
            assert!(of_code(code).is_some(), "{code}");
        }
        for code in ["42P01", "42501", "22021", "23505", "XX001", "", "4"] {
            assert!(of_code(code).is_none(), "{code}");
        }
        assert!(transient(&sqlx::Error::PoolTimedOut).is_some());
        assert!(transient(&sqlx::Error::RowNotFound).is_none());
    }
}
