"""Which headers tell callers apart."""

import pytest

from mcp_persist_middleware.protocol import callers


@pytest.mark.parametrize(
    "name",
    [
        b"Authorization",
        b"Cookie",
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
    pair = [(b"cookie", b"a"), (b"authorization", b"b")]
    assert callers.identity(pair) == callers.identity(pair[::-1])
    assert callers.identity([*pair, (b"cookie", b"c")]) != callers.identity(pair)


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


@pytest.mark.parametrize("cookie", [b"AWSALB=%s; AWSALBCORS=%s", b"ARRAffinity=%s; _ga=%s"])
def test_a_balancers_cookie_names_nobody(cookie: bytes) -> None:
    first, second = cookie % (b"1", b"2"), cookie % (b"3", b"4")
    assert callers.identity([(b"cookie", first)]) == []
    kept = b"; session=ann"
    assert callers.identity([(b"cookie", first + kept)]) == callers.identity(
        [(b"cookie", second + kept)]
    )
    assert callers.identity([(b"cookie", kept)]) != callers.identity([(b"cookie", b"session=bob")])


def test_a_signature_of_one_request_names_nobody() -> None:
    assert callers.identity([(b"x-signature", b"a1")]) == []
    assert callers.secrets([(b"x-signature", b"a1")])


@pytest.mark.parametrize("name", [b"route", b"lb", b"sticky", b"SERVERID", b"SRV", b"SRVNAME"])
def test_a_cookie_that_may_be_the_applications_own_tells_two_callers_apart(name: bytes) -> None:
    ann, bob = (callers.identity([(b"cookie", name + b"=" + who)]) for who in (b"ann", b"bob"))
    assert ann != bob
