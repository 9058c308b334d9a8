//! How much of a type there is, and where to cut it: from a sample of its pages, so that planning costs the same
//! whatever the size of the store. A wrong guess makes parts uneven, never wrong.

use std::ops::Range;

use sqlx::{PgConnection, QueryBuilder, Row};

use super::cohort::Access;
use super::read::{Window, partition, push_conditions};
use crate::fhir::resource_type::ResourceType;

/// Of a type this share of its pages is looked at …
const SHARE: f64 = 0.02;
/// … but at least and at most so many.
const PAGES: Range<f64> = 40.0..300.0;

/// All keys there can be.
pub(crate) const ALL_KEYS: Range<i64> = 0..i64::MAX;

/// A sample of the resources of a type that an export asks for.
#[derive(Debug)]
pub(crate) struct Sample {
    /// Key and bytes of each, by key.
    rows: Vec<(i64, i64)>,
    /// How many resources one in the sample stands for.
    weight: f64,
}

/// The types of these that have any row at all, with their size in pages.
pub(crate) async fn filled(
    connection: &mut PgConnection,
    types: &[ResourceType],
) -> Result<Vec<(ResourceType, i64)>, sqlx::Error> {
    let mut sizes = sizes(connection, types).await?;
    sizes.retain(|(_, pages)| *pages > 0);
    Ok(sizes)
}

/// These types with their size in pages.
pub(crate) async fn sizes(
    connection: &mut PgConnection,
    types: &[ResourceType],
) -> Result<Vec<(ResourceType, i64)>, sqlx::Error> {
    let partitions: Vec<String> = types.iter().copied().map(partition).collect();
    let pages = sqlx::query_scalar!(
        r#"-- resource.sample.pages
        select pg_relation_size(name::regclass) / current_setting('block_size')::bigint as "pages!"
        from unnest($1::text[]) with ordinality as partition (name, ordinal)
        order by ordinal"#,
        &partitions
    )
    .fetch_all(connection)
    .await?;
    Ok(types.iter().copied().zip(pages).collect())
}

impl Sample {
    /// Samples a type of so many pages.
    pub(crate) async fn take(
        connection: &mut PgConnection,
        resource_type: ResourceType,
        pages: i64,
        window: Window,
        access: Access,
    ) -> Result<Self, sqlx::Error> {
        let pages = to_f64(pages);
        let share = ((pages * SHARE).clamp(PAGES.start, PAGES.end) / pages).min(1.0);
        let mut query = QueryBuilder::new("-- resource.sample.take\nselect key, octet_length(body)::bigint");
        let weight = access.of(resource_type).push_sample(&mut query, resource_type, window.at, share);
        push_conditions(&mut query, resource_type, window, access, false);
        query.push(" order by key");
        let rows = query.build().persistent(false).fetch_all(connection).await?;
        let rows =
            rows.into_iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<Result<_, sqlx::Error>>()?;
        Ok(Self { rows, weight })
    }

    /// How many resources there are, about.
    pub(crate) fn resources(&self) -> i64 {
        to_i64(to_f64(i64::try_from(self.rows.len()).unwrap_or(i64::MAX)) * self.weight)
    }

    /// How many bytes of NDJSON they make, about.
    pub(crate) fn bytes(&self) -> i64 {
        to_i64(to_f64(self.rows.iter().map(|(_, bytes)| bytes + 1).sum()) * self.weight)
    }

    /// Cuts all keys into so many ranges of about equal bytes; fewer where the sample is too small for it.
    pub(crate) fn cut(&self, parts: i64) -> Vec<Range<i64>> {
        let total: i64 = self.rows.iter().map(|(_, bytes)| bytes).sum();
        let mut ranges = Vec::new();
        let (mut start, mut seen) = (ALL_KEYS.start, 0);
        for (key, bytes) in &self.rows {
            let next = i64::try_from(ranges.len() + 1).unwrap_or(i64::MAX);
            if next < parts && seen >= total / parts * next && *key > start {
                ranges.push(start..*key);
                start = *key;
            }
            seen += bytes;
        }
        ranges.push(start..ALL_KEYS.end);
        ranges
    }
}

#[expect(clippy::cast_precision_loss, reason = "estimates")]
pub(super) fn to_f64(number: i64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, reason = "saturates, and these are estimates")]
fn to_i64(number: f64) -> i64 {
    number.round() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_cover_every_key_once(
            mut keys in proptest::collection::vec(0i64..1_000_000, 0..200),
            parts in 1i64..40,
        ) {
            keys.sort_unstable();
            keys.dedup();
            let sample = Sample { rows: keys.iter().map(|key| (*key, 1000)).collect(), weight: 1.0 };
            let ranges = sample.cut(parts);
            prop_assert!(ranges.len() as i64 <= parts);
            prop_assert_eq!(ranges[0].start, ALL_KEYS.start);
            prop_assert_eq!(ranges[ranges.len() - 1].end, ALL_KEYS.end);
            for pair in ranges.windows(2) {
                prop_assert_eq!(pair[0].end, pair[1].start);
            }
            for range in &ranges {
                prop_assert!(range.start < range.end);
            }
        }
    }

    #[test]
    fn parts_are_about_equal() {
        let sample = Sample { rows: (0..1000).map(|key| (key, 100)).collect(), weight: 2.0 };
        assert_eq!(sample.resources(), 2000);
        let ranges = sample.cut(4);
        assert_eq!(ranges.len(), 4);
        assert!((240..=260).contains(&ranges[1].start), "{ranges:?}");
    }
}
