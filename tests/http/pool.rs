//! The pools of connections: what is given back is fit for the next user.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use fhir_bulk_export::database::Database as Connector;

use crate::support::{Database, eventually};

// A client that goes away while its request begins a transaction
#[tokio::test]
async fn who_is_dropped_while_a_transaction_begins_leaves_none_open() {
    let database = Database::create().await;
    let pool = Connector::at(database.options()).pool();
    drop(pool.acquire().await.unwrap());
    let open = "pg_stat_activity where datname = current_database() and state like 'idle in transaction%'
        and application_name = 'fhir-bulk-export'";
    for polls in 1..20 {
        let mut begin = Box::pin(pool.begin());
        for _ in 0..polls {
            if poll_fn(|context| Poll::Ready(begin.as_mut().poll(context).is_ready())).await {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(begin);
        // Long before Postgres ends a session that stands idle in a transaction.
        let none_is_open = eventually("none is open", || async { database.count(open).await == 0 });
        tokio::time::timeout(Duration::from_secs(10), none_is_open).await.expect("no transaction is open");
    }
}
