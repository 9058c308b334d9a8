//! The state at any instant is one predicate over the rows, whatever was written since (DESIGN 2).

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sqlx::PgPool;
use time::OffsetDateTime;

use crate::support::Database;

/// What is current: the language of each Task.
type State = BTreeMap<String, String>;

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0u8..5, 0u8..3).prop_map(|(id, language)| Step::Put(id, language)),
        1 => (0u8..5).prop_map(Step::Delete),
    ];
    proptest::collection::vec(step, 60)
}

/// The first instant at which everything written so far holds. It is waited out, so that what is written later is
/// dated later.
async fn just_written(pool: &PgPool) -> OffsetDateTime {
    let (at,): (OffsetDateTime,) =
        sqlx::query_as("select coalesce(max(last_updated), 'epoch') from resource").fetch_one(pool).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    at
}

async fn state_at(pool: &PgPool, at: OffsetDateTime) -> State {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select id, body::jsonb ->> 'language' from resource
        where last_updated <= $1 and superseded_at > $1 and not deleted",
    )
    .bind(at)
    .fetch_all(pool)
    .await
    .unwrap();
    let count = rows.len();
    let state: State = rows.into_iter().collect();
    assert_eq!(state.len(), count, "no resource has two states at {at}");
    state
}

#[tokio::test]
async fn every_instant_keeps_its_state() {
    let database = Database::create().await;
    let mut runner = TestRunner::default();
    let steps = steps().new_tree(&mut runner).unwrap().current();
    let mut model = State::new();
    let mut remembered = Vec::new();
    for step in &steps {
        match step {
            Step::Put(id, language) => {
                let text = format!(r#"{{"resourceType":"Task","id":"t{id}","language":"l{language}"}}"#);
                database.put(&[&text]).await;
                model.insert(format!("t{id}"), format!("l{language}"));
            }
            Step::Delete(id) => {
                database.delete("Task", &format!("t{id}")).await;
                model.remove(&format!("t{id}"));
            }
        }
        remembered.push((just_written(&database.pool).await, model.clone()));
    }
    for (number, (at, expected)) in remembered.iter().enumerate() {
        assert_eq!(&state_at(&database.pool, *at).await, expected, "after step {number} of {steps:?}");
    }
}
