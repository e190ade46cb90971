//! The quick way to read the message that comes most: a call of a tool, as clients write it.
//!
//! Runs in: server. Pure. rmcp reads a message as one of many kinds, by trying them on a copy of all of its parts. This reads
//! the one kind directly, and says `None` to whatever is not plainly of it: rmcp then reads that, and has the last word on it.

use rmcp::model::{
    CallToolRequest, CallToolRequestParams, ClientJsonRpcMessage, JsonRpcMessage, JsonRpcVersion2_0, RequestId,
};
use serde::Deserialize;

const METHOD: &str = "tools/call";

/// A request with nothing beside what JSON-RPC says that it has.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope<'a> {
    #[serde(rename = "jsonrpc")]
    _version: JsonRpcVersion2_0,
    id: RequestId,
    method: &'a str,
    params: CallToolRequestParams,
}

/// The message, if it is a plain call of a tool.
pub(super) fn call(text: &[u8]) -> Option<ClientJsonRpcMessage> {
    memchr::memmem::find(text, METHOD.as_bytes())?;
    let Envelope { id, method, mut params, .. } = serde_json::from_slice(text).ok()?;
    if method != METHOD {
        return None;
    }
    // As rmcp does: from the parameters to where its service looks for it.
    let meta = params.meta.take();
    let mut request = CallToolRequest::new(params);
    if let Some(meta) = meta {
        request.extensions.insert(meta);
    }
    Some(JsonRpcMessage::request(request.into(), id))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rmcp::model::{ClientRequest, RequestMetaObject};
    use serde_json::{Value, json};

    use super::*;

    /// All that there is in a message.
    fn parts(message: &ClientJsonRpcMessage) -> (Value, Option<Value>) {
        let JsonRpcMessage::Request(request) = message else { panic!("no request: {message:?}") };
        let ClientRequest::CallToolRequest(call) = &request.request else { panic!("no call: {message:?}") };
        let meta = call.extensions.get::<RequestMetaObject>();
        let meta = meta.map(|meta| serde_json::to_value(meta).expect("JSON"));
        assert!(call.params.meta.is_none(), "it stands beside the parameters");
        (serde_json::to_value(message).expect("JSON"), meta)
    }

    fn same(text: &str) -> bool {
        let Some(quick) = call(text.as_bytes()) else { return false };
        let usual: ClientJsonRpcMessage = serde_json::from_str(text).expect("rmcp takes what is taken here");
        assert_eq!(parts(&quick), parts(&usual), "{text}");
        true
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z_]{1,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_call_is_read_as_rmcp_reads_it(
            id in prop_oneof![any::<i64>().prop_map(Value::from), "[ -~]{1,9}".prop_map(Value::from)],
            name in "[a-z_]{1,9}",
            arguments in proptest::collection::btree_map("[a-z_]{1,8}", value(), 0..5),
            meta in proptest::option::of(proptest::collection::btree_map("[a-z/.]{1,20}", value(), 0..3)),
            state in proptest::option::of(".{0,9}"),
        ) {
            let mut params = json!({"name": name, "arguments": arguments});
            if let Some(meta) = meta {
                params["_meta"] = json!(meta);
            }
            if let Some(state) = state {
                params["requestState"] = json!(state);
            }
            let message = json!({"jsonrpc": "2.0", "id": id, "method": METHOD, "params": params});
            prop_assert!(same(&message.to_string()));
        }
    }

    #[test]
    fn keys_in_any_order_and_what_rmcp_passes_over_are_read_too() {
        for text in [
            r#"{"params":{"name":"ping"},"method":"tools/call","id":"a","jsonrpc":"2.0"}"#,
            r#" {"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ping","arguments":null,"_meta":null}} "#,
            r#"{"jsonrpc":"2.0","id":-4,"method":"tools/call","params":{"name":"p","arguments":{"a":"\u00e4\n"},"extra":[1]}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"p","_meta":{"progressToken":7},"arguments":{}}}"#,
        ] {
            assert!(same(text), "{text}");
        }
    }

    /// What is no plain call, or no call at all, is rmcp's to read or to refuse.
    #[test]
    fn all_else_is_left_to_rmcp() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"tools/call"}}"#,
            r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"ping"}}"#,
            r#"{"jsonrpc":"2.0","id":null,"method":"tools/call","params":{"name":"ping"}}"#,
            r#"{"jsonrpc":"1.0","id":1,"method":"tools/call","params":{"name":"ping"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ping"},"result":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ping"},"id":2}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"arguments":{}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[1]}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"\ud800"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#,
            r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ping"}}]"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"ping"}} x"#,
        ] {
            assert!(call(text.as_bytes()).is_none(), "{text}");
        }
    }
}
