//! The embedder against a scripted server on a local port.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use serde_json::{Value, json};

use super::*;

/// What the server does with one request.
enum Reply {
    /// Status, extra header lines, body made from the request.
    Answer(u16, &'static str, fn(&Value) -> String),
    /// Takes the request and says nothing for a while.
    Silence(Duration),
    /// Closes the connection.
    HangUp,
}

/// What arrived: the head and the JSON body.
type Seen = (String, Value);

/// Serves one request a connection, in the order of the script, and sends on what it saw.
fn serve(script: Vec<Reply>) -> (String, mpsc::Receiver<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for reply in script {
            let Ok((stream, _)) = listener.accept() else { return };
            let _ = answer(stream, reply, &sender);
        }
    });
    (url, receiver)
}

fn answer(mut stream: TcpStream, reply: Reply, seen: &mpsc::Sender<Seen>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let length =
        head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let body: Value = serde_json::from_slice(&body).unwrap();
    let _ = seen.send((head, body.clone()));
    match reply {
        Reply::Answer(status, headers, make) => {
            let body = make(&body);
            let length = body.len();
            write!(
                stream,
                "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
            )
        }
        Reply::Silence(time) => {
            thread::sleep(time);
            Ok(())
        }
        Reply::HangUp => Ok(()),
    }
}

fn ok(make: fn(&Value) -> String) -> Reply {
    Reply::Answer(200, "content-type: application/json\r\n", make)
}

/// For every text its length and 0.5, in order.
fn lengths(request: &Value) -> String {
    let texts = request["input"].as_array().unwrap();
    let datum = |(index, text): (usize, &Value)| {
        let length = text.as_str().unwrap().len();
        json!({"object": "embedding", "index": index, "embedding": [length, 0.5]})
    };
    json!({"object": "list", "data": texts.iter().enumerate().map(datum).collect::<Vec<_>>()}).to_string()
}

/// The same in the opposite order.
fn reversed(request: &Value) -> String {
    let mut reply: Value = serde_json::from_str(&lengths(request)).unwrap();
    reply["data"].as_array_mut().unwrap().reverse();
    reply.to_string()
}

fn busy(_: &Value) -> String {
    json!({"error": {"message": "slow down", "type": "rate_limit"}}).to_string()
}

fn settings(base_url: String) -> OpenAiSettings {
    OpenAiSettings {
        base_url,
        model: "mini".into(),
        api_key: Some("sk-secret".into()),
        backoff_ms: 1,
        timeout_ms: 5_000,
        retries_max: 3,
        ..OpenAiSettings::default()
    }
}

fn embed(settings: OpenAiSettings, texts: &[&str]) -> Result<Vec<Vec<f32>>> {
    OpenAiEmbedder::new(settings)?.embed(texts, EmbedPurpose::Passage, None)
}

#[test]
fn a_good_answer() {
    let (url, seen) = serve(vec![ok(lengths), ok(lengths)]);
    let settings = OpenAiSettings { dimensions: Some(2), query_prefix: "query: ".into(), ..settings(url) };
    let embedder = OpenAiEmbedder::new(settings).unwrap();
    assert_eq!(embedder.embed(&["a", "bcd"], EmbedPurpose::Passage, None).unwrap(), [[1.0, 0.5], [3.0, 0.5]]);
    assert_eq!(embedder.embed(&["a"], EmbedPurpose::Query, None).unwrap(), [[8.0, 0.5]]);
    assert_eq!((embedder.dim(), embedder.name()), (Some(2), "mini"));
    assert!(embedder.embed(&[], EmbedPurpose::Query, None).unwrap().is_empty());
    let (head, body) = seen.recv().unwrap();
    assert!(head.starts_with("POST /v1/embeddings HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("authorization: bearer sk-secret\r\n"), "{head}");
    let expected =
        json!({"model": "mini", "input": ["a", "bcd"], "dimensions": 2, "encoding_format": "float"});
    assert_eq!(body, expected);
    assert_eq!(seen.recv().unwrap().1["input"], json!(["query: a"]));
}

#[test]
fn answers_are_ordered_by_index() {
    let (url, _seen) = serve(vec![ok(reversed)]);
    let vectors = embed(settings(url), &["a", "bb", "ccc"]).unwrap();
    assert_eq!(vectors, [[1.0, 0.5], [2.0, 0.5], [3.0, 0.5]]);
}

#[test]
fn base64_answers() {
    let (url, seen) = serve(vec![ok(|_| r#"{"data":[{"index":0,"embedding":"AACAPwAAAL8="}]}"#.into())]);
    let settings = OpenAiSettings { encoding_format: EncodingFormat::Base64, api_key: None, ..settings(url) };
    assert_eq!(embed(settings, &["a"]).unwrap(), [[1.0, -0.5]]);
    let (head, body) = seen.recv().unwrap();
    assert!(!head.to_lowercase().contains("authorization"));
    assert_eq!(body, json!({"model": "mini", "input": ["a"], "encoding_format": "base64"}));
}

#[test]
fn batches_are_bounded() {
    let (url, seen) = serve((0..4).map(|_| ok(lengths)).collect());
    let settings = OpenAiSettings { batch_texts_max: 3, batch_chars_max: 10, ..settings(url) };
    let texts = ["a", "b", "c", "123456789", "12", "0123456789ab"];
    let vectors = embed(settings, &texts).unwrap();
    let expected: Vec<_> = texts.iter().map(|text| vec![text.len() as f32, 0.5]).collect();
    assert_eq!(vectors, expected);
    let sizes: Vec<_> =
        seen.iter().take(4).map(|(_, body)| body["input"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [3, 1, 1, 1]);
}

#[test]
fn what_passes_is_retried() {
    let script = vec![
        Reply::Answer(429, "retry-after-ms: 20\r\n", busy),
        Reply::HangUp,
        Reply::Answer(503, "", |_| String::new()),
        ok(lengths),
    ];
    let (url, seen) = serve(script);
    assert_eq!(embed(settings(url), &["abc"]).unwrap(), [[3.0, 0.5]]);
    assert_eq!(seen.iter().take(4).count(), 4);
}

#[test]
fn failing_for_ever_ends() {
    let (url, _seen) = serve((0..9).map(|_| Reply::Answer(500, "", |_| "oops".into())).collect());
    let error = embed(settings(url), &["a"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("answered 500") && error.message().contains("oops"), "{error}");
    assert!(error.message().contains("gave up after 4 attempts"), "{error}");
}

#[test]
fn a_wait_beyond_the_total_time_ends_at_once() {
    let (url, _seen) = serve(vec![Reply::Answer(429, "retry-after: 3600\r\n", busy)]);
    let error = embed(settings(url), &["a"]).unwrap_err();
    assert!(error.message().contains("1 attempts") && error.message().contains("wait 3600.0 s"), "{error}");
    assert!(error.message().contains("slow down"), "{error}");
}

#[test]
fn a_slow_server_times_out() {
    let (url, _seen) = serve(vec![Reply::Silence(Duration::from_millis(400))]);
    let settings = OpenAiSettings { timeout_ms: 50, retries_max: 0, ..settings(url) };
    let error = embed(settings, &["a"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("did not answer in 50 ms"), "{error}");
}

#[test]
fn no_server_at_all() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let settings = OpenAiSettings { retries_max: 1, ..settings(format!("http://127.0.0.1:{port}/v1")) };
    let error = embed(settings, &["a"]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.message().contains("2 attempts"), "{error}");
}

#[test]
fn refusals_teach() {
    let refused = |reply| {
        let (url, _seen) = serve(vec![reply]);
        embed(settings(url), &["a", "b"]).unwrap_err()
    };
    let status = |status, make| refused(Reply::Answer(status, "", make));
    let leak = |_: &Value| r#"{"error":{"message":"Incorrect key sk-secret"}}"#.to_owned();
    let error = status(401, leak);
    assert!(
        error.message().contains("check the API key") && !error.message().contains("sk-secret"),
        "{error}"
    );
    // Not `Invalid`: whoever asked the question cannot change the key.
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(status(404, busy).message().contains("check the base URL and the model 'mini'"));
    assert!(status(413, busy).message().contains("batch_texts_max"));
    assert!(status(400, busy).message().contains("slow down"));
    assert!(status(302, busy).message().contains("redirects"));
    let spent = status(429, |_| r#"{"error":{"code":"insufficient_quota"}}"#.into());
    assert_eq!(spent.kind(), ErrorKind::Exhausted);
    assert!(refused(ok(|_| "<html>".into())).message().contains("not one of the embeddings API"));
    assert!(refused(ok(|_| r#"{"data":[{"embedding":[1]}]}"#.into())).message().contains("1 vectors for 2"));
    const RAGGED: &str = r#"{"data":[{"embedding":[1,2]},{"embedding":[1]}]}"#;
    assert!(refused(ok(|_| RAGGED.into())).message().contains("1 elements where 2"));
    const HUGE: &str = r#"{"data":[{"embedding":[1e39]},{"embedding":[1]}]}"#;
    assert!(refused(ok(|_| HUGE.into())).message().contains("number out of range"));
}

#[test]
fn dimensions_are_checked() {
    let (url, _seen) = serve(vec![ok(lengths)]);
    let settings = OpenAiSettings { dimensions: Some(3), ..settings(url) };
    assert!(embed(settings, &["a"]).unwrap_err().message().contains("2 elements where 3"));
}

#[test]
fn a_huge_body_is_bounded() {
    let (url, _seen) = serve(vec![ok(|_| " ".repeat(3 << 20))]);
    let settings = OpenAiSettings { dimensions: Some(2), ..settings(url) };
    let error = embed(settings, &["a"]).unwrap_err();
    assert!(error.message().contains("more than 66624 bytes"), "{error}");
}

#[test]
fn settings_are_checked_and_keep_the_key() {
    let good = settings("http://localhost:1".into());
    let refused = |settings: OpenAiSettings| OpenAiEmbedder::new(settings).unwrap_err().to_string();
    for url in ["", "localhost", "ftp://x", "http://", "http://u:p@x/v1", "https://x/v1?k=1"] {
        assert!(
            refused(OpenAiSettings { base_url: url.into(), ..good.clone() }).contains("base_url"),
            "{url}"
        );
    }
    assert!(refused(OpenAiSettings { model: String::new(), ..good.clone() }).contains("model"));
    assert!(refused(OpenAiSettings { api_key: Some("a b".into()), ..good.clone() }).contains("api_key"));
    assert!(refused(OpenAiSettings { batch_texts_max: 0, ..good.clone() }).contains("batch_texts_max"));
    assert!(refused(OpenAiSettings { dimensions: Some(0), ..good.clone() }).contains("dimensions"));
    assert!(refused(OpenAiSettings { timeout_ms: 0, ..good.clone() }).contains("timeouts"));
    let embedder = OpenAiEmbedder::new(good.clone()).unwrap();
    assert!(!format!("{embedder:?} {good:?}").contains("sk-secret"));
    let written = serde_json::to_string(&good).unwrap();
    assert!(!written.contains("sk-secret"));
    let read: OpenAiSettings = serde_json::from_str(r#"{"model":"m","api_key":"k"}"#).unwrap();
    assert_eq!((read.model.as_str(), read.api_key.as_deref()), ("m", Some("k")));
    assert!(serde_json::from_str::<OpenAiSettings>(r#"{"modle":"m"}"#).is_err());
}

#[test]
fn texts_are_checked() {
    let settings = OpenAiSettings { text_chars_max: 4, ..settings("http://localhost:1".into()) };
    assert!(embed(settings.clone(), &["ok", " "]).unwrap_err().message().contains("text 1 is empty"));
    assert!(embed(settings, &["12345"]).unwrap_err().message().contains("5 characters"));
}
