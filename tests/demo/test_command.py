from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from vle_lightning import extras
from vle_lightning.cli import main
from vle_lightning.demo.command import is_loopback, prepare, read_options
from vle_lightning.demo.examples import Examples
from vle_lightning.demo.place import Place
from vle_lightning.errors import UserError
from vle_lightning.inference.chat import ChatServer


def test_without_gradio_the_command_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    assert main(["demo", "checkpoints/none"]) == 2
    assert "pip install 'vle-lightning[demo]', or pip install '.[demo]' in a checkout" in capsys.readouterr().err


def test_the_page_stays_on_this_machine_unless_asked(exported: Callable[[str], Path], world: Path) -> None:
    given = [str(exported("dual")), "--world", str(world), "--device", "cpu"]
    options = read_options(given)
    assert (options.address, options.share) == ("127.0.0.1", False)
    assert prepare(options).folders
    assert not prepare(read_options([*given, "--share"])).folders  # strangers may not read this machine's folders
    assert not prepare(read_options([*given, "--address", "0.0.0.0"])).folders


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--port", "99999"), "--port 99999: "),
        (("--port", "-1"), "--port -1: "),
        (("--address", "192.0.2.1"), "--address 192.0.2.1: "),  # kept for documents: no machine's own
        (("--address", "no address", "--port", "7860"), "--address no address --port 7860: "),
    ],
)
def test_a_place_that_cannot_be_used_is_a_sentence_before_a_model_is_loaded(
    options: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(tmp_path / "none"), *options]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "None" not in said
    assert said.strip().endswith("; choose another one")


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = Place(port=taken.getsockname()[1])
        with pytest.raises(UserError, match=f"^--port {place.port}: .*in use"):
            place.check()


def test_addresses_of_ipv6_stand_in_brackets() -> None:
    assert (Place("::1").host, Place("127.0.0.1").host) == ("[::1]", "127.0.0.1")


def test_loopback_addresses() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.168.0.2", "example.org")))


def test_a_wrong_model_or_folder_ends_with_a_sentence(
    exported: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", str(tmp_path / "none")]) == 2
    assert "no checkpoint" in capsys.readouterr().err
    assert main(["demo", str(exported("dual")), "--photos", str(tmp_path / "none")]) == 2
    assert "none: the folder was not found; name a folder of pictures" in capsys.readouterr().err
    assert main(["demo", str(exported("dual")), "--world", str(tmp_path / "none")]) == 2
    assert "none: the folder was not found; name a folder of the embedded world" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "[]", '{"annotations": [{"caption": "red"}]}'])
def test_a_damaged_world_ends_with_a_sentence(content: str, tmp_path: Path) -> None:
    file = tmp_path / "raw/coco/annotations/captions_val.json"
    file.parent.mkdir(parents=True)
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=rf"--world: {file} cannot be read .*make data-toy"):
        Examples(tmp_path)


@pytest.mark.parametrize("option", ["--tokenizer", "--answers"])
def test_an_option_that_no_model_needs_is_refused(option: str, exported: Callable[[str], Path], world: Path) -> None:
    given = [str(exported("dual")), "--world", str(world), "--device", "cpu", option, "/nowhere"]
    with pytest.raises(UserError, match=f"{option}: none of the models needs it"):
        prepare(read_options(given))


def test_the_language_model_is_an_option_of_the_command(
    exported: Callable[[str], Path], world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def start(kind: str, *options: str) -> list[str]:
        return [str(exported(kind)), "--world", str(world), "--device", "cpu", *options]

    server = ("--llm", "http://127.0.0.1:9/v1", "--llm_model", "stub", "--llm_timeout", "5")
    found = prepare(read_options(start("vqa", *server))).language_model
    assert found is not None
    assert (found.chat, found.captioner) == (ChatServer("http://127.0.0.1:9/v1", "stub", 5.0), None)
    assert prepare(read_options(start("vqa"))).language_model is None
    for options, message in (
        (start("vqa", *server[:2]), "--llm or --llm_model is missing"),
        (start("vqa", "--captioner", "some/model"), "--llm or --llm_model is missing"),
        (start("vqa", "--llm", "localhost", "--llm_model", "stub"), "llm is no address of a server"),
        (start("vqa", *server, "--captioner", str(world)), "cannot be loaded as an image-text-to-text model"),
        (start("dual", *server), "none of the models has a head for it"),
    ):
        assert main(["demo", *options]) == 2
        assert message in capsys.readouterr().err
