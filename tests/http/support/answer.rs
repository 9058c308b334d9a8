//! Answers with all that is in them, for tests that compare headers.

use std::collections::BTreeSet;

use reqwest::RequestBuilder;
use reqwest::header::HeaderMap;

use super::Caller;

pub struct Answer {
    pub status: u16,
    headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The elements of a header that is a list and may come several times, in lower case.
    pub fn list(&self, name: &str) -> BTreeSet<String> {
        let values = self.headers.get_all(name).iter().map(|value| value.to_str().unwrap());
        values.flat_map(|value| value.split(',')).map(|element| element.trim().to_ascii_lowercase()).collect()
    }
}

pub async fn send(request: RequestBuilder) -> Answer {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, body: response.bytes().await.unwrap().to_vec() }
}

/// A GET with these headers.
pub async fn get(caller: &Caller, url: &str, headers: &[(&str, &str)]) -> Answer {
    send(headers.iter().fold(caller.get(url), |request, (name, value)| request.header(*name, *value))).await
}
