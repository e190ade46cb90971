//! What cells display: pictures as pictures, tables as text with their HTML beside it, whether or not IPython is there.

use serde_json::{Value, json};

use crate::support::Forkpy;

/// A PNG of one colour, as any library makes one.
const PNG: &str = "\
import struct, zlib
def png(width, height, row=lambda width: b'\\xff\\x00\\x00' * width):
    chunk = lambda kind, body: struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
    rows = b''.join(b'\\x00' + row(width) for _ in range(height))
    head = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\\x89PNG\\r\\n\\x1a\\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b'')
class Picture:
    def __init__(self, *size): self.size = size
    def _repr_png_(self): return png(*self.size)
";

fn content(forkpy: &mut Forkpy, code: &str) -> (Value, Vec<Value>) {
    let answer = forkpy.request("tools/call", json!({"name": "run_python_code", "arguments": {"code": code}}));
    let result = &answer["result"];
    (result["structuredContent"].clone(), result["content"].as_array().expect("blocks").clone())
}

fn image_size(block: &Value) -> (u32, u32) {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let bytes = STANDARD.decode(block["data"].as_str().expect("base64")).expect("base64");
    let image = image::load_from_memory(&bytes).expect("a picture");
    (image.width(), image.height())
}

#[test]
fn a_picture_comes_as_an_image_and_its_original_as_a_file() {
    let mut forkpy = Forkpy::start();
    forkpy.run(PNG);
    let (data, blocks) = content(&mut forkpy, "Picture(4000, 300)");
    assert_eq!((&blocks[1]["type"], &blocks[1]["mimeType"]), (&json!("image"), &json!("image/png")));
    assert_eq!(image_size(&blocks[1]), (1568, 118));
    let file = data["outputs"][0].as_str().expect("a file").to_owned();
    assert_eq!(image::image_dimensions(forkpy.file(&file)).expect("a picture"), (4000, 300));
    assert_eq!(blocks.len(), 2, "what is shown inline is not linked");
    assert_eq!(data["displays"][0]["files"]["image/png"], json!(file));
    assert_eq!(data["new_files"], json!([]), "what forkpy saved is no new file of the cell's: {data}");
}

#[test]
fn many_large_pictures_stay_below_what_clients_accept() {
    let mut forkpy = Forkpy::start();
    forkpy.run(PNG);
    let code = "\
import random
class Noise:
    def _repr_png_(self):
        return png(700, 500, lambda width: random.randbytes(3 * width))
for n in range(9):
    display(Noise())
print('x' * 200_000)";
    let (data, blocks) = content(&mut forkpy, code);
    let images: Vec<&Value> = blocks.iter().filter(|block| block["type"] == "image").collect();
    assert_eq!((images.len(), data["outputs"].as_array().expect("files").len()), (6, 9));
    let size = serde_json::to_string(&blocks).expect("JSON").len() + data.to_string().len();
    assert!(size < 1 << 20, "{size}");
}

#[test]
fn html_is_text_for_a_model_and_a_file_for_people() {
    let mut forkpy = Forkpy::start();
    let code = "\
from IPython.display import HTML, Markdown, clear_output
display(HTML('<table><tr><th>name</th><th>n</th></tr><tr><td>a</td><td>10</td></tr></table>'))
Markdown('# Title')";
    let (data, blocks) = content(&mut forkpy, code);
    assert_eq!(data["results"], json!(["name | n\na    | 10", "# Title"]));
    let html = std::fs::read_to_string(forkpy.file(data["outputs"][0].as_str().expect("a file"))).expect("written");
    assert!(html.starts_with("<table>"), "{html}");
    assert_eq!(
        data["displays"].as_array().expect("displays").len(),
        1,
        "what has neither files nor a name is a result alone"
    );
    assert!(blocks[0]["text"].as_str().expect("text").contains("--- outputs ---\noutputs/default-cell-1-1.html"));
}

#[test]
fn a_display_can_be_replaced_and_taken_back() {
    let mut forkpy = Forkpy::start();
    let reply = forkpy.run("h = display('a', display_id='bar')\nh.update('b')\ndisplay('c')");
    assert_eq!(reply["results"], json!(["'b'", "'c'"]));
    let reply = forkpy.run("h.update('d')");
    assert_eq!((&reply["displays"][0]["update"], &reply["displays"][0]["display_id"]), (&json!(true), &json!("bar")));
    let reply = forkpy.run("from IPython.display import clear_output\ndisplay(1); clear_output(); display(2)");
    assert_eq!(reply["results"], json!(["2"]));
}

#[test]
fn what_was_displayed_before_an_exception_is_there() {
    let mut forkpy = Forkpy::start();
    let reply = forkpy.run("display({'a': 1})\n1 / 0");
    assert_eq!((&reply["status"], &reply["results"]), (&json!("error"), &json!(["{'a': 1}"])));
}

#[test]
fn a_semicolon_hides_the_value() {
    let mut forkpy = Forkpy::start();
    assert_eq!(forkpy.run("5;")["results"], json!([]));
    assert_eq!(forkpy.run("x = 5; x")["results"], json!(["5"]));
}

#[test]
fn earlier_results_and_inputs_have_names() {
    let mut forkpy = Forkpy::start();
    for code in ["10", "20", "30"] {
        forkpy.run(code);
    }
    assert_eq!(forkpy.eval("_, __, ___, _1, Out[2], In[3]"), "(30, 20, 10, 10, 20, '30')");
    assert_eq!(forkpy.call("list_variables", json!({})).data["variables"], json!({}));
}

#[test]
fn a_child_of_a_cell_displays_by_printing() {
    let mut forkpy = Forkpy::start();
    let code = "\
import multiprocessing
child = multiprocessing.get_context('fork').Process(target=lambda: display({'a': 1}))
child.start(); child.join()";
    let reply = forkpy.run(code);
    assert_eq!((&reply["stdout"], &reply["displays"]), (&json!("{'a': 1}\n"), &Value::Null));
}
