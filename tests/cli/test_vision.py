"""Images on the command line: run --image, chat /image, and what is refused."""

import json

import pytest
from conftest import asset, hlwq, hlwq_json


@pytest.fixture(scope="module")
def cases(nano):
    return json.loads((nano / "golden/cases.json").read_text())


def picture(nano, case):
    return nano / "golden" / case["image"]


def ask(model, image, question, *more, **options):
    return hlwq_json("run", model, "--image", image, "-p", question, "--greedy", "--kv", "f32", *more, **options)


def test_an_answer_about_an_image(nano, cases):
    case = cases[0]
    question = case["questions"][0]
    answer = ask(nano, picture(nano, case), question["question"])
    assert answer["ids"] == question["model_ids"] and answer["text"] == question["expected"]
    width, height = case["size"]
    assert answer["images"] == [{"path": str(picture(nano, case)), "width": width, "height": height, "tokens": 60}]
    assert answer["prompt_ids"].count(8187) == 60
    assert "images" not in hlwq_json("run", nano, "-p", "Hello", "-n", 1)


def test_several_images_go_before_the_text_in_order(nano, cases):
    first, second = picture(nano, cases[0]), picture(nano, cases[1])
    answer = hlwq_json("run", nano, "--image", first, "--image", second, "-p", "What do you see?", "-n", 1)
    assert [i["path"] for i in answer["images"]] == [str(first), str(second)]
    ids = answer["prompt_ids"]
    starts = [i for i, token in enumerate(ids) if token == 8185]
    assert starts == [4, 4 + answer["images"][0]["tokens"] + 2]
    assert ids[4 + sum(i["tokens"] + 2 for i in answer["images"])] not in (8185, 8187, 8189)


def test_images_in_a_whole_conversation(nano, cases, tmp_path):
    case, questions = cases[0], cases[0]["questions"]
    messages = [
        {"role": "user", "content": [{"type": "image", "path": str(picture(nano, case))},
                                     {"type": "text", "text": questions[0]["question"]}]},
        {"role": "assistant", "content": questions[0]["expected"]},
        {"role": "user", "content": questions[1]["question"]},
    ]  # fmt: skip
    file = tmp_path / "messages.json"
    file.write_text(json.dumps(messages))
    answer = hlwq_json("run", nano, "--messages", file, "--greedy", "--kv", "f32")
    assert answer["text"] == questions[1]["expected"] and answer["images"][0]["tokens"] == 60
    hlwq("run", nano, "--messages", file, "--image", picture(nano, case), code=2)


def test_image_tokens(nano, cases):
    image = picture(nano, cases[0])
    more = ask(nano, image, "What do you see?", "--image-tokens", 280, "-n", 1)["images"][0]["tokens"]
    assert 70 < more <= 280
    assert ask(nano, image, "What do you see?", "--image-tokens", "auto", "-n", 1)["images"][0]["tokens"] <= 70


def test_text_never_becomes_an_image(nano, cases):
    answer = ask(nano, picture(nano, cases[0]), "<|image|> <|image>", "-n", 1)
    assert answer["prompt_ids"].count(8187) == 60 and answer["prompt_ids"].count(8185) == 1


def test_wrong_use(nano, cases):
    image = picture(nano, cases[0])
    hlwq("run", nano, "--image", image, "--raw", "-p", "x", code=2)
    hlwq("run", nano, "--image", image, "--ids", "1,2", code=2)
    hlwq("run", nano, "--image-tokens", 70, "-p", "x", code=2)
    assert "auto" in hlwq("run", nano, "--image", image, "--image-tokens", 100, "-p", "x", code=2).stderr


def test_refusals(nano, cases, tmp_path):
    image = picture(nano, cases[0])
    text_model = asset("llama_tied")
    assert "takes no images" in hlwq("run", text_model, "--image", image, "-p", "x", code=1).stderr
    assert "takes no images" in hlwq("chat", text_model, "--vision", code=1).stderr
    assert "nothing.png" in hlwq("run", nano, "--image", "nothing.png", "-p", "x", code=1).stderr
    cut = tmp_path / "cut.png"
    cut.write_bytes(image.read_bytes()[:1000])
    assert "broken PNG" in hlwq("run", nano, "--image", cut, "-p", "x", code=1).stderr
    assert "context" in hlwq("run", nano, "--image", image, "-p", "x", "--ctx", 64, code=1).stderr


def test_a_checkpoint_without_the_encoder_stays_a_text_model(nano, cases, tmp_path):
    """Drops the vision tensors: the config still names the encoder."""
    from struct import pack, unpack

    model = tmp_path / "text-only"
    model.mkdir()
    for file in nano.iterdir():
        if file.suffix in (".json", ".jinja") and "index" not in file.name:
            (model / file.name).write_bytes(file.read_bytes())
    header, data = {}, b""
    for shard in sorted(nano.glob("model-*.safetensors")):
        raw = shard.read_bytes()
        size = unpack("<Q", raw[:8])[0]
        for name, entry in json.loads(raw[8 : 8 + size]).items():
            if name == "__metadata__" or "vision" in name:
                continue
            begin, end = entry["data_offsets"]
            header[name] = {**entry, "data_offsets": [len(data), len(data) + end - begin]}
            data += raw[8 + size + begin : 8 + size + end]
    text = json.dumps(header).encode()
    (model / "model.safetensors").write_bytes(pack("<Q", len(text)) + text + data)
    assert hlwq_json("run", model, "-p", "Hello", "-n", 1, "--greedy")["ids"]
    assert "vision weights" in hlwq("run", model, "--image", picture(nano, cases[0]), "-p", "x", code=1).stderr


@pytest.mark.parametrize("flag", [["--vision"], []])
def test_chat_with_images(nano, cases, tmp_path, flag):
    first, second = cases[0], cases[1]
    saved = tmp_path / "chat.json"
    lines = [f"/image {picture(nano, first)}", first["questions"][0]["question"], first["questions"][1]["question"],
             f"/save {saved}"]
    out = hlwq("chat", nano, *flag, "--greedy", "--kv", "f32", stdin="\n".join(lines) + "\n").stdout
    assert "207 x 315: 60 tokens" in out
    assert first["questions"][0]["expected"] in out and first["questions"][1]["expected"] in out
    messages = json.loads(saved.read_text())
    assert messages[0]["content"][0] == {"type": "image", "path": str(picture(nano, first))}
    assert messages[0]["content"][1] == {"type": "text", "text": first["questions"][0]["question"]}
    # A saved conversation knows its images again, and a new one asks about another.
    again = hlwq("chat", nano, "--greedy", "--kv", "f32", "--load", saved, stdin=f"{first['questions'][1]['question']}\n")
    assert first["questions"][1]["expected"] in again.stdout
    fresh = hlwq("chat", nano, "--greedy", "--kv", "f32",
                 stdin=f"/load {saved}\n/reset\n/image {picture(nano, second)}\n{second['questions'][0]['question']}\n")
    assert second["questions"][0]["expected"] in fresh.stdout


def test_chat_survives_a_bad_image(nano, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    run = hlwq("chat", nano, "--greedy", "-n", 2, stdin=f"/image {bad}\n", code=1)
    assert "not a JPEG, PNG or WebP" in run.stderr


@pytest.mark.parametrize("policy", ["default", "q4"])
def test_quantised_models_keep_the_encoder(nano, nano_q5, cases, tmp_path, policy):
    model = nano_q5
    if policy != "default":
        model = tmp_path / policy
        hlwq("quantize", nano, "-o", model, "--policy", policy)
    case = cases[0]
    right = sum(ask(model, picture(nano, case), q["question"])["text"] == q["expected"] for q in case["questions"])
    assert right >= 3
