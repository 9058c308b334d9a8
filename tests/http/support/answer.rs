//! Answers with all that is in them, for tests that compare headers.

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
