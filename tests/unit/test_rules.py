"""What a request must obey, and how its mistakes are told."""

import json
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tesp_api.domain import images
from tesp_api.domain.errors import InvalidRequest
from tesp_api.domain.parsing import MISTAKES_TOLD, VALUES, parse
from tesp_api.domain.rules import Policy, inexpressible, is_pattern, mistakes, path_refusal
from tesp_api.domain.tes import Input, Output, TaskRequest
from tesp_api.runner import engine, mounts, order

EXECUTOR = {"image": "ubuntu:20.04", "command": ["true"]}
ENGINES = ("docker", "podman", "apptainer", "singularity", "host")


def request(**fields: Any) -> dict[str, Any]:
    return {"executors": [EXECUTOR]} | fields


def told(document: Any, policy: Policy | None = None) -> dict[str, str]:
    """Return the mistakes of a document, sentence by path."""
    try:
        parse(json.dumps(document).encode(), policy or Policy())
    except InvalidRequest as error:
        return {mistake.path: mistake.message for mistake in error.mistakes}
    return {}


def executor(**fields: Any) -> dict[str, Any]:
    return request(executors=[EXECUTOR | fields])


def put(**fields: Any) -> dict[str, Any]:
    return request(inputs=[{"path": "/a", "content": "x"} | fields])


def sent(**fields: Any) -> dict[str, Any]:
    return request(outputs=[{"path": "/a", "url": "http://x/"} | fields])


GOOD = (
    request(),
    executor(command=["./x", "", "a b", "$HOME", ";", "\n", "http://x//y/", "-v", "--"]),
    executor(workdir="/", stdin="/a", stdout="/b/c", stderr="/b/d"),
    executor(workdir="", stdin="", stdout=""),
    executor(env={"A": "", "a.b-c": "x=y\n", "\u00e9": "'\""}),
    put(path="/file"),
    put(path="/etc/x.conf"),
    put(path="/a/.b c[d]'\"\u00e9,:;"),
    put(path="/a/..b/...", content=""),
    put(path="/processes/x"),
    put(path="/a\nb\tc"),
    request(inputs=[{"path": "/d", "url": "file:///x", "type": "DIRECTORY"}]),
    sent(path="/o/*.txt", path_prefix="/o"),
    sent(path="/o/*.txt", path_prefix="/o/"),
    sent(path="/o/a[1].txt", path_prefix="/o/a"),
    sent(path="/o/\\*", path_prefix=None),
    sent(path="/o/x", path_prefix="ignored"),
    sent(path="/home/me/*", path_prefix="/home/me"),
    sent(path="/mnt/*", path_prefix="/mnt") | {"volumes": ["/mnt/"]},
    sent(path="/opt/x/*", path_prefix="/opt/x")
    | {"inputs": [{"path": "/opt/x", "url": "file:///x", "type": "DIRECTORY"}]},
    request(volumes=["/vol/A/", "/vol/A/B", "/pulsar_staging/"]),
    request(resources={"cpu_cores": 0, "ram_gb": 0, "disk_gb": 0.067, "zones": []}),
    request(resources={"cpu_cores": 2**31 - 1}),
    request(tags={"a": "", " ": "x"}),
    request(name="", description="", inputs=[], outputs=[], volumes=[], tags={}),
)


@pytest.mark.parametrize("document", GOOD)
def test_right_requests_have_no_mistakes(document: dict[str, Any]) -> None:
    assert told(document) == {}


BAD = (
    ({}, "executors", "required"),
    (request(executors=None), "executors", "required"),
    (request(executors=[]), "executors", "at least one"),
    (request(executors={}), "executors", "array"),
    (request(executors=[None]), "executors[0]", "object"),
    (executor(image=""), "executors[0].image", "empty"),
    (executor(image="  "), "executors[0].image", "empty"),
    (executor(image=None), "executors[0].image", "required"),
    (executor(image="--volume=/:/h"), "executors[0].image", "no image reference"),
    (executor(image="-x"), "executors[0].image", "no image reference"),
    (executor(image="Ubuntu"), "executors[0].image", "no image reference"),
    (executor(image="docker://ubuntu"), "executors[0].image", "no image reference"),
    (executor(image="a b"), "executors[0].image", "no image reference"),
    (executor(image="/img.sif"), "executors[0].image", "no image reference"),
    (executor(command=[]), "executors[0].command", "program"),
    (executor(command=[""]), "executors[0].command", "program"),
    (executor(command="ls"), "executors[0].command", "array"),
    (executor(command=["a", None]), "executors[0].command[1]", "string"),
    (executor(command=["a", "b\0"]), "executors[0].command[1]", "NUL"),
    (executor(workdir="data"), "executors[0].workdir", "absolute"),
    (executor(stdin="./a"), "executors[0].stdin", "absolute"),
    (executor(stdout="/a/../b"), "executors[0].stdout", "'..'"),
    (executor(stderr="/dev/stderr"), "executors[0].stderr", "kernel"),
    (executor(env={"": "x"}), "executors[0].env", "variable"),
    (executor(env={"A=B": "x"}), "executors[0].env", "variable"),
    (executor(env={"A": "\0"}), "executors[0].env.A", "NUL"),
    (executor(env={"aB": 1}), "executors[0].env.aB", "string"),
    (put(path="a"), "inputs[0].path", "absolute"),
    (put(path=""), "inputs[0].path", "absolute"),
    (put(path="/"), "inputs[0].path", "root"),
    (put(path="//./"), "inputs[0].path", "root"),
    (put(path="/a/.."), "inputs[0].path", "'..'"),
    (put(path="/a\0b"), "inputs[0].path", "NUL"),
    (put(path="/proc/self/mem"), "inputs[0].path", "kernel"),
    (put(path="//sys"), "inputs[0].path", "kernel"),
    (put(path="/./dev/x"), "inputs[0].path", "kernel"),
    (put(path="/" + "a" * 256), "inputs[0].path", "longer"),
    (put(path="/a" * 2048), "inputs[0].path", "longer"),
    (put(path="/a\r\nb"), "inputs[0].path", "line end"),
    (put(content=None), "inputs[0].url", "required"),
    (put(content=None, url=""), "inputs[0].url", "required"),
    (put(type="DIRECTORY"), "inputs[0].type", "FILE"),
    (put(type="directory"), "inputs[0].type", "'FILE' or 'DIRECTORY'"),
    (put(content="\u00e9" * 2**19 + "x"), "inputs[0].content", "larger than the 1048576"),
    (sent(url=""), "outputs[0].url", "empty"),
    (sent(url=None), "outputs[0].url", "required"),
    (sent(path="/"), "outputs[0].path", "root"),
    (sent(path="/o/*"), "outputs[0].path_prefix", "required"),
    (sent(path="/*", path_prefix="/"), "outputs[0].path", "wildcards"),
    (sent(path="/v*/x", path_prefix="/"), "outputs[0].path", "wildcards"),
    (sent(path="/root/*.txt", path_prefix="/root"), "outputs[0].path", "wildcards"),
    (sent(path="/usr/share//x/*", path_prefix="/usr"), "outputs[0].path", "wildcards"),
    (sent(path="/o/a?"), "outputs[0].path_prefix", "required"),
    (sent(path="/o/a[bc]"), "outputs[0].path_prefix", "required"),
    (sent(path="/a/*", path_prefix="/b"), "outputs[0].path_prefix", "begins with"),
    (sent(path="/a/*/*", path_prefix="/a/*"), "outputs[0].path_prefix", "wildcard"),
    (request(volumes=["/a", "b"]), "volumes[1]", "absolute"),
    (request(volumes=["/"]), "volumes[0]", "root"),
    (request(volumes=["/dev/shm"]), "volumes[0]", "kernel"),
    (request(resources={"cpu_cores": -1}), "resources.cpu_cores", "greater"),
    (request(resources={"cpu_cores": 2**31}), "resources.cpu_cores", "less"),
    (request(resources={"cpuCores": 1.5}), "resources.cpu_cores", "integer"),
    (request(resources={"ram_gb": -0.1}), "resources.ram_gb", "greater"),
    (request(resources={"diskGb": 1e300}), "resources.disk_gb", "less"),
    (request(resources={"ram_gb": float("nan")}), "resources.ram_gb", "finite"),
    (request(resources={"ram_gb": float("inf")}), "resources.ram_gb", "finite"),
    (request(tags={"": "x"}), "tags", "empty key"),
    (request(tags={"someKey": 1}), "tags.someKey", "string"),
    (request(name=1), "name", "string"),
    ([], "", "object"),
    (None, "", "object"),
)


@pytest.mark.parametrize(("document", "path", "words"), BAD)
def test_each_mistake_is_told_alone_with_its_path(document: Any, path: str, words: str) -> None:
    found = told(document)
    assert list(found) == [path]
    assert words in found[path]
    assert found[path].endswith(".")


def test_two_inputs_on_one_path_are_told_however_it_is_spelt() -> None:
    paths = ("/a/b", "/c", "//a/./b/", "/a/b")
    found = told(request(inputs=[{"path": path, "content": "x"} for path in paths]))
    assert list(found) == ["inputs[2].path", "inputs[3].path"]
    assert "inputs[0]" in found["inputs[2].path"]


def test_mistakes_of_meaning_are_told_beside_those_of_shape() -> None:
    document = {
        "executors": [{"command": ["true"], "workdir": "rel"}, "no object", EXECUTOR],
        "inputs": [{"path": 5, "url": "x"}, {"path": "rel", "content": "x"}, {}],
        "outputs": [{"url": "http://x/", "path": "/a/*", "pathPrefix": 4}, {"path": "/a/*"}],
        "volumes": ["/x", 7, "rel"],
        "tags": {"a": 1, "": "b"},
        "resources": {"ramGb": "much", "cpuCores": -1},
    }
    assert set(told(document)) == {
        "executors[0].image", "executors[0].workdir", "executors[1]", "inputs[0].path",
        "inputs[1].path", "inputs[2].path", "inputs[2].url", "outputs[0].path_prefix",
        "outputs[1].url", "outputs[1].path_prefix", "volumes[1]", "volumes[2]", "tags.a", "tags",
        "resources.ram_gb", "resources.cpu_cores",
    }  # fmt: skip


def test_no_more_mistakes_are_told_than_anybody_reads() -> None:
    found = told(request(volumes=["rel"] * (MISTAKES_TOLD + 50)))
    assert len(found) == MISTAKES_TOLD + 1
    assert found[""] == "There are more mistakes."
    assert "" not in told(request(volumes=["rel"] * MISTAKES_TOLD))


def test_a_document_with_too_many_values_is_refused_unread() -> None:
    found = told(request(volumes=["/x"] * (VALUES + 1)))
    assert found == {"": f"The body holds more than {VALUES} values."}
    assert told(request(volumes=["/x"] * (VALUES - 10))) == {}


def test_commas_in_strings_are_no_values() -> None:
    text = '\\",' * VALUES
    assert told(request(name=text, description=text)) == {}


def test_mistakes_repeat_neither_contents_nor_urls() -> None:
    secret = "user:hunter2@"
    document = request(
        inputs=[
            {"path": "rel", "content": secret * 2**17},
            {"path": "/a", "url": f"ftp://{secret}host/x", "type": secret},
        ],
        outputs=[{"path": "/a", "url": {secret: secret}}],
    )
    policy = Policy(refusal=lambda _item, _owner: "the URL is not served")
    assert "hunter2" not in json.dumps(told(document, policy))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(
        [*TaskRequest.model_fields, *Input.model_fields, "image", "command", "env"]
    ), inner),
)  # fmt: skip


@given(JSON, st.sampled_from(ENGINES))
@example({"executors": [{"image": "a", "command": ["b"], "env": {"path": 1}}]}, "host")
@example({"executors": [], "resources": {"cpu_cores": "x", "cpuCores": "y"}}, "host")
@example({"executors": [], "tags": {"executors": 5, "url": None, "command": []}}, "host")
def test_any_document_is_parsed_or_refused_with_a_sentence(document: Any, engine: str) -> None:
    policy = Policy(engine=engine)
    found = told(document, policy)
    assert all(found.values())
    if not found:
        assert not list(mistakes(parse(json.dumps(document).encode(), policy), policy))


@given(st.binary())
def test_any_bytes_are_parsed_or_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse(body, Policy())


def test_the_storage_judges_urls_but_not_those_beside_contents() -> None:
    asked: list[Input | Output] = []

    def refusal(item: Input | Output, _owner: str | None) -> str | None:
        asked.append(item)
        return "is not served"

    document = request(
        inputs=[
            {"path": "/a", "url": "x:", "content": "y"},
            {"path": "/b", "url": "x:", "content": ""},
            {"path": "/c", "content": ""},
        ],
        outputs=[{"path": "/d", "url": "x:"}],
    )
    assert told(document, Policy(refusal=refusal)) == {
        "inputs[1].url": "is not served",
        "outputs[0].url": "is not served",
    }
    assert [item.path for item in asked] == ["/b", "/d"]


def test_a_strict_request_names_each_unsupported_parameter() -> None:
    policy = Policy(backend_parameters=frozenset({"vmsize"}))
    given = {"VmSize": "x", "Other": "y", "more": "z"}
    strict = {"backend_parameters": given, "backend_parameters_strict": True}
    assert set(told(request(resources=strict), policy)) == {
        "resources.backend_parameters.Other",
        "resources.backend_parameters.more",
    }
    assert told(request(resources={"backend_parameters": given}), policy) == {}


REFERENCES = (
    "ubuntu",
    "ubuntu:20.04",
    "library/ubuntu",
    "localhost:5000/a/b:c",
    "HOST.Example.org:443/team/tool__x.y-z:V1.0_a-b",
    "[::1]:5000/x",
    "quay.io/biocontainers/samtools:1.9--h8571acd_11",
    "x@sha256:" + "0" * 64,
    "x:1@sha256:" + "f" * 64,
)
NO_REFERENCES = (
    "", "-v", "--privileged", "a:-b", "a b", "a\n", "\na", "a\0", "A", "a/B", "a//b", "/a", "a/",
    "a:", "a:b:c", "a@b", "a@sha256:12", "a__", "a..b", "a_-b", "-a/b", "a;b", "a$b", "a'b", "a,b",
    "a=b", "http://a", "docker://a", "a" * 256, "..", ".", "\u00e9",
)  # fmt: skip


@pytest.mark.parametrize("image", REFERENCES)
@pytest.mark.parametrize("engine", ENGINES)
def test_references_are_taken_by_every_engine(image: str, engine: str) -> None:
    assert images.refusal(image, engine) is None


@pytest.mark.parametrize("image", NO_REFERENCES)
@pytest.mark.parametrize("engine", ["docker", "podman", "apptainer", "singularity"])
def test_what_is_no_reference_is_taken_by_no_engine(image: str, engine: str) -> None:
    assert images.refusal(image, engine) is not None


def test_the_grammar_is_quick_with_hostile_names() -> None:
    for image in ("a-" * 255, "a." * 255, "a" * 511 + "!", "0" * 300 + ":/", "a/" * 255 + "!"):
        assert not images.is_reference(image)


APPTAINER_TAKES = (
    "docker://ubuntu:20.04",
    "library://user/collection/name:tag",
    "/images/a.sif",
    "/images/sub/a b.sif",
    "ubuntu",
)
APPTAINER_REFUSES = (
    "instance://x",
    "http://example.org/x.sif",
    "docker-archive:/x.tar",
    "docker://-x",
    "docker://",
    "docker:///etc",
    "/images",
    "/images/",
    "/images/../etc/x",
    "/imagesx/a",
    "/etc/x.sif",
    "/images/a\nb",
    "images/a.sif/",
    "./a.sif",
)


@pytest.mark.parametrize("engine", ["apptainer", "singularity"])
def test_apptainer_takes_allowed_schemes_and_files_below_its_roots(engine: str) -> None:
    where = {"roots": ("/images/",), "schemes": ("docker", "library")}
    for image in APPTAINER_TAKES:
        assert images.refusal(image, engine, **where) is None, image  # type: ignore[arg-type]
    for image in APPTAINER_REFUSES:
        assert images.refusal(image, engine, **where) is not None, image  # type: ignore[arg-type]


def test_without_roots_and_schemes_apptainer_takes_neither() -> None:
    for image in ("/images/a.sif", "docker://ubuntu"):
        assert images.refusal(image, "apptainer") is not None


def test_variables_that_apptainer_cannot_set_are_refused_there_only() -> None:
    odd = executor(env={"a.b": "x"})
    assert told(odd, Policy(engine="apptainer")) != {}
    assert told(odd, Policy(engine="docker")) == {}


STEP = st.sampled_from(["opt", "var", "lib", "root", "home", "u", "d", "*", "a?", "[x]", "\\*"])
PLACE = st.lists(STEP, min_size=1, max_size=4).map(lambda steps: "/" + "/".join(steps))


@given(
    pattern=PLACE,
    own=st.lists(PLACE.filter(lambda path: not is_pattern(path)), max_size=2),
    as_volumes=st.booleans(),
)
def test_server_and_runner_agree_on_where_wildcards_may_select(
    pattern: str, own: list[str], *, as_volumes: bool
) -> None:
    assume(is_pattern(pattern))
    prefix = pattern[:1]
    directories = [{"path": path, "url": "http://x/", "type": "DIRECTORY"} for path in own]
    more = {"volumes": own} if as_volumes else {"outputs": directories}
    output = {"path": pattern, "path_prefix": prefix, "url": "http://x/"}
    document = request(**{**more, "outputs": [*more.get("outputs", []), output]})
    made = order.read_order({"job": "j", "engine": {"kind": "docker"}, **document})
    refused = mounts.impossible(made, mounts.mounts(made, "/tree"))
    assert (told(document) == {}) == (refused is None)


PATTERNS = ("*", "/a/*", "/a?b", "/[ab]", "/[!a]", "/a[^b]c", "/\\\\*", "/a[]]")
NO_PATTERNS = ("/a", "/\\*", "/a\\?", "/[", "/a]", "/[]", "/\\[a]", "/a[b/c]", "/{a,b}")


@pytest.mark.parametrize("path", PATTERNS)
def test_wildcards_are_seen(path: str) -> None:
    assert is_pattern(path)


@pytest.mark.parametrize("path", NO_PATTERNS)
def test_other_names_are_no_patterns(path: str) -> None:
    assert not is_pattern(path)


@given(st.text(), st.sampled_from(ENGINES))
@example("/a\r\nb", "docker")
@example("/a,b:c", "apptainer")
def test_no_path_is_taken_that_the_runner_could_not_mount(path: str, engine: str) -> None:
    if inexpressible(path, engine) is None:
        assert mounts.inexpressible(engine, path) is None
    if mounts.inexpressible(engine, path) is not None:
        assert path_refusal("/" + path, engine) is not None


@given(st.from_regex(images._REFERENCE, fullmatch=True) | st.text())
def test_no_image_is_taken_that_the_runner_would_refuse(image: str) -> None:
    if images.is_reference(image):
        assert engine.is_reference(image)
        assert not image.startswith("-")
