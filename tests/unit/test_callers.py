"""Which headers tell callers apart."""

import pytest

from mcp_persist_middleware.protocol import callers


@pytest.mark.parametrize(
    "name",
    [
        b"Authorization",
        b"X-Api-Key",
        b"Api-Key",
        b"apikey",
        b"X-Auth-Token",
        b"Proxy-Authorization",
        b"X-Forwarded-Access-Token",
        b"X-Amzn-Oidc-Identity",
        b"X-Goog-Iap-Jwt-Assertion",
        b"Cf-Access-Jwt-Assertion",
        b"Remote-User",
        b"X-Client-Cert",
    ],
)
def test_a_header_that_carries_a_credential_names_its_caller(name: bytes) -> None:
    one = callers.identity([(name, b"a"), (b"accept", b"*/*")])
    assert one == [name.lower() + b":a"]
    assert one != callers.identity([(name, b"b")])


@pytest.mark.parametrize(
    "name",
    [
        b"Mcp-Session-Id",
        b"Mcp-Protocol-Version",
        b"Last-Event-Id",
        b"Accept",
        b"User-Agent",
        b"Content-Type",
        b"Content-Length",
        b"Host",
        b"Connection",
        b"Keep-Alive",
        b"Monkey",
        b"X-Request-Id",
    ],
)
def test_a_header_that_a_reconnection_may_change_is_not(name: bytes) -> None:
    assert callers.identity([(name, b"a")]) == []


def test_the_order_of_headers_does_not_matter_but_each_value_does() -> None:
    pair = [(b"x-api-key", b"a"), (b"authorization", b"b")]
    assert callers.identity(pair) == callers.identity(pair[::-1])
    assert callers.identity([*pair, (b"x-api-key", b"c")]) != callers.identity(pair)


@pytest.mark.parametrize("name", sorted(callers.NAMES))
def test_the_name_that_a_proxy_passes_on_tells_its_users_apart(name: bytes) -> None:
    ann, bob = (callers.identity([(name.title(), who)]) for who in (b"ann", b"bob"))
    assert ann != bob
    assert ann == callers.identity([(name, b"ann")])


def test_a_header_of_ones_own_names_the_caller_where_that_is_said() -> None:
    raw = [(b"X-Our-Person", b"ann")]
    assert callers.identity(raw) == []
    assert callers.identity(raw, {b"x-our-person"}) == [b"x-our-person:ann"]


@pytest.mark.parametrize(
    ("name", "proof"),
    [
        (b"x-amzn-oidc-identity", b"x-amzn-oidc-data"),
        (b"cf-access-authenticated-user-email", b"cf-access-jwt-assertion"),
        (b"x-goog-authenticated-user-id", b"x-goog-iap-jwt-assertion"),
        (b"x-forwarded-user", b"x-forwarded-access-token"),
        (b"x-ms-client-principal-id", b"x-ms-token-aad-id-token"),
    ],
)
def test_what_a_proxy_signs_anew_beside_a_name_costs_nobody_a_stream(
    name: bytes, proof: bytes
) -> None:
    one, two = ([(name, b"ann"), (proof, signed)] for signed in (b"v1", b"v2"))
    assert callers.identity(one) == callers.identity(two)
    # Alone it is all that there is to tell two callers apart.
    assert callers.identity(one[1:]) != callers.identity(two[1:])
    assert callers.secrets(one) != callers.secrets(two)


@pytest.mark.parametrize("beside", [b"x-tenant-id", b"x-scope-orgid", b"remote-user", b"x-user"])
@pytest.mark.parametrize(
    "proof", [b"x-goog-iap-jwt-assertion", b"cf-access-jwt-assertion", b"x-amzn-oidc-data"]
)
def test_beside_a_name_that_is_not_its_proxys_an_assertion_tells_two_people_apart(
    beside: bytes, proof: bytes
) -> None:
    ann, bob = ([(beside, b"acme"), (proof, signed)] for signed in (b"ann", b"bob"))
    assert callers.identity(ann) != callers.identity(bob)


def cookies(*lines: bytes) -> list[bytes]:
    found = callers.doubtful([(b"Cookie", line) for line in lines], b"")
    return found.get(callers.COOKIE, [])


@pytest.mark.parametrize("cookie", [b"AWSALB=%s; AWSALBCORS=%s", b"ARRAffinity=%s; _ga=%s"])
def test_a_balancers_cookie_names_nobody(cookie: bytes) -> None:
    first, second = cookie % (b"1", b"2"), cookie % (b"3", b"4")
    assert cookies(first) == []
    kept = b"; session=ann"
    assert cookies(first + kept) == cookies(second + kept) != cookies(b"session=bob")


def test_cookies_are_the_same_in_one_header_and_in_several() -> None:
    assert cookies(b"a=1; b=2") == cookies(b"b=2", b"a=1") != cookies(b"a=1; b=3")


def test_what_the_application_has_to_be_asked_about_can_be_left_out() -> None:
    raw = [
        (b"Cookie", b"csrftoken=c; id=ann"),
        (b"X-Device-Token", b"d"),
        (b"Authorization", b"a"),
        (b"X-CSRF-Token", b"c"),
    ]
    assert callers.identity(raw) == [b"authorization:a"]
    assert callers.doubtful(raw, b"key=1") == {
        callers.COOKIE: [b"id=ann"],
        callers.QUERY: [b"key=1"],
        callers.OTHER: [b"x-device-token:d"],
    }
    less = callers.without(raw, {callers.COOKIE, callers.OTHER})
    assert less == [(b"Cookie", b"csrftoken=c"), raw[2], raw[3]]
    assert callers.without(raw, {callers.QUERY}) == raw
    # Where it is said to name the caller, nobody has to be asked.
    assert b"cookie:csrftoken=c; id=ann" in callers.identity(raw, {b"cookie"})
    assert callers.COOKIE not in callers.doubtful(raw, b"", {b"cookie"})


@pytest.mark.parametrize(
    "name",
    [
        b"X-Signature",
        b"Idempotency-Key",
        b"X-Idempotency-Key",
        b"X-CSRF-Token",
        b"X-XSRF-Token",
        b"X-Amz-Security-Token",
        b"Sec-WebSocket-Key",
    ],
)
def test_what_belongs_to_one_request_names_nobody(name: bytes) -> None:
    raw = [(name, b"a1")]
    assert callers.identity(raw) == []
    assert callers.doubtful(raw, b"") == {}


def test_a_signature_of_one_request_is_a_secret_all_the_same() -> None:
    assert callers.secrets([(b"x-signature", b"a1")])


@pytest.mark.parametrize("name", [b"route", b"lb", b"sticky", b"SERVERID", b"SRV", b"SRVNAME"])
def test_a_cookie_that_may_be_the_applications_own_tells_two_callers_apart(name: bytes) -> None:
    ann, bob = (cookies(name + b"=" + who) for who in (b"ann", b"bob"))
    assert ann != bob
