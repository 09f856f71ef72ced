"""Who may ask: names that are known, the key, and no web page of somebody else's."""

import pytest

from yinggem.serving.guard import Guard, host_name

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("name", ["localhost:1", "127.0.0.1", "[::1]:8000", "LOCALHOST", "localhost."])
def test_the_names_of_this_machine_are_known(server, name):
    assert server.client.get("/health", headers={"Host": name}).status_code == 200


@pytest.mark.parametrize(
    "name", ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "", "127.0.0.1.evil"]
)
def test_another_name_is_refused_whatever_is_asked_for(server, name):
    for path in ("/health", "/v1/models", "/nowhere"):
        response = server.client.get(path, headers={"Host": name})
        assert response.status_code == 403 and response.json()["error"]["type"] == "permission_error"


def test_listening_everywhere_any_address_may_be_typed_but_no_unknown_name():
    async def app(scope, receive, send): ...

    guard = Guard(app, "0.0.0.0", ["box.lan"])
    for name, passes in [
        ("192.168.1.5:8000", True),
        ("[fe80::1]:80", True),
        ("box.lan", True),
        ("evil.example", False),
    ]:
        assert (guard.refusal({"host": name}, "GET", "/") is None) == passes  # type: ignore[arg-type]
    assert host_name("[::1]:80") == "::1" and host_name("A.b:80") == "a.b"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_what_a_form_of_another_page_can_send_is_refused(server, kind):
    response = server.client.post("/v1/completions", content=b'{"prompt": "a"}', headers={"Content-Type": kind})
    assert response.status_code == 415
    with_charset = {"Content-Type": "application/json; charset=utf-8"}
    assert server.client.post("/v1/completions", content=b'{"prompt": "a"}', headers=with_charset).status_code == 200


def test_other_origins_may_not_ask_unless_they_were_named(server, start, byte_checkpoint):
    asking = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST",
              "Access-Control-Request-Headers": "content-type,authorization"}  # fmt: skip
    refused = server.client.options("/v1/completions", headers=asking)
    assert refused.status_code == 405 and "access-control-allow-origin" not in refused.headers
    assert "access-control-allow-origin" not in server.client.get("/v1/models", headers=asking).headers
    open_to_one = start(byte_checkpoint, origins=["https://page.example"], key="secret")
    assert open_to_one.client.options("/v1/completions", headers=asking).headers["access-control-allow-origin"]
    answer = open_to_one.client.get("/v1/models", headers={"Origin": "https://page.example"})
    assert answer.status_code == 401 and answer.headers["access-control-allow-origin"] == "https://page.example"
    other = open_to_one.client.options("/v1/completions", headers=asking | {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    open_to_one.stop()


def test_without_the_key_nothing_of_the_model_is_told(start, byte_checkpoint):
    server = start(byte_checkpoint, key="sécret")
    for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "sécret2"}):
        headers = JSON | {name: value.encode() for name, value in given.items()}
        for path in ("/v1/completions", "/tokenize"):
            response = server.client.post(path, content=b'{"prompt": "a"}', headers=headers)
            assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
        assert server.client.get("/metrics", headers=headers).status_code == 401
    assert server.client.get("/health").status_code == 200
    right = {"Authorization": "Bearer sécret".encode()}
    assert server.client.get("/v1/models", headers=right).status_code == 200
    server.stop()
