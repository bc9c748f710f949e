"""What tells one caller from another. Pure, and data where it can be.

Two questions, two answers: what may carry a secret (it is sealed and never kept) and what names
the caller (streams and sessions belong to it). A missed name lets two people look alike; what
changes from request to request, taken for a name, costs its sender every stream. So there are
names, and there is what is one only where the application asks for it: a cookie, a query string,
a token of no known kind.
"""

import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

from mcp_persist_middleware.protocol.headers import RawHeaders

# A header that can carry a secret.
_SECRET = re.compile(
    rb"authorization|cookie|token|secret|credential|assertion|jwt|passw|signature"
    rb"|(?:^|-)(?:api-?)?key(?:$|-)|(?:^|-)auth(?:$|-)|(?:^|-)identity(?:$|-)|remote-user|client-cert"
)
# By these names authenticating proxies pass a user on: oauth2-proxy, Authelia, authentik, Pomerium,
# Traefik, Kong, Cloudflare Access, Google IAP, AWS ALB, Azure App Service, Tailscale, nginx.
NAMES = frozenset(
    b"""
    cf-access-authenticated-user-email remote-email remote-name remote-user
    ssl-client-s-dn ssl-client-subject-dn tailscale-user-login tailscale-user-name
    oidc_claim_sub sf-context-current-user x-amzn-mtls-clientcert-subject x-apigateway-api-userinfo
    x-arr-clientcert x-forwarded-username x-replit-user-id x-userinfo
    x-amzn-oidc-identity x-auth-request-email x-auth-request-preferred-username x-auth-request-user
    x-authenticated-user x-authenticated-userid x-authentik-email x-authentik-uid
    x-authentik-username x-client-dn x-client-cert-subject x-consumer-custom-id x-consumer-id
    x-consumer-username x-credential-identifier x-email x-forwarded-email
    x-forwarded-preferred-username x-forwarded-user x-goog-authenticated-user-email
    x-goog-authenticated-user-id x-ms-client-principal-id x-ms-client-principal-name x-org-id
    x-pomerium-claim-email x-pomerium-claim-sub x-pomerium-claim-user x-remote-email x-remote-user
    x-scope-orgid x-ssl-client-dn x-ssl-client-s-dn x-tenant x-tenant-id x-user x-user-email
    x-user-id x-username x-vouch-user x-webauth-email x-webauth-user
    """.split()
)
# What a proxy signs or issues anew, beside a person's name of its own: it proves that name, and is
# none. Beside any other (a tenant's) it is all that tells two people apart.
_PROOFS = tuple(
    (re.compile(proof), frozenset(names.split()))
    for proof, names in (
        (rb"x-amzn-oidc-(?:data|accesstoken)", b"x-amzn-oidc-identity"),
        (rb"cf-access-jwt-assertion", b"cf-access-authenticated-user-email"),
        (
            rb"x-goog-iap-jwt-assertion",
            b"x-goog-authenticated-user-email x-goog-authenticated-user-id",
        ),
        (
            rb"x-pomerium-jwt-assertion",
            b"x-pomerium-claim-email x-pomerium-claim-sub x-pomerium-claim-user",
        ),
        (
            rb"x-ms-token-.*|x-ms-client-principal",
            b"x-ms-client-principal-id x-ms-client-principal-name",
        ),
        (
            rb"x-forwarded-access-token",
            b"x-forwarded-email x-forwarded-preferred-username x-forwarded-user",
        ),
        (
            rb"x-auth-request-access-token",
            b"x-auth-request-email x-auth-request-preferred-username x-auth-request-user",
        ),
        (rb"x-authentik-jwt", b"x-authentik-email x-authentik-uid x-authentik-username"),
    )
)
# It differs between any two requests, or belongs to what does.
_OF_ONE_REQUEST = re.compile(
    rb"signature|csrf|xsrf|idempotency-key|sec-websocket-key|x-amz-security-token"
)
# A secret by its name that is not known to be anybody's: it may be of one request as well.
_OF_SOMETHING = re.compile(rb"token|secret|credential|passw")
_OF_SOMEBODY = re.compile(
    rb"authorization|assertion|jwt|remote-user|client-cert"
    rb"|(?:^|-)(?:api-?)?key(?:$|-)|(?:^|-)auth(?:$|-)|(?:^|-)identity(?:$|-)|(?:access|api)-?token"
)
# What balancers and the like tell browsers apart by: it says which server, not who. Only names that
# no application gives to a cookie of its own.
_AFFINITY = re.compile(
    rb"^(?:AWSALB.*|AWSELB.*|GCLB|GCILB|ARRAffinity.*|ApplicationGatewayAffinity.*|BIGipServer.*"
    rb"|__cf_bm|__cflb|__cfruid|_cfuvid|cf_clearance|INGRESSCOOKIE"
    rb"|visid_incap.*|incap_ses.*|nlbi_.*|ak_bmsc|bm_sv|_ga.*|_gid|XSRF-TOKEN|csrftoken)$"
)

# A name of more bytes is not remembered.
_LONGEST = 64
T = TypeVar("T")

# The kinds of what may name a caller.
COOKIE, QUERY, OTHER = "cookie", "query", "other"


def secrets(raw: RawHeaders) -> list[bytes]:
    """Every header that may carry a secret, as `name:value`, in a fixed order."""
    return sorted(
        key.lower() + b":" + value
        for key, value in raw
        if _may_be_secret(key.lower()) or key.lower() in NAMES
    )


def telling(raw: RawHeaders, more: Collection[bytes] = ()) -> RawHeaders:
    """The headers that may name a caller, surely or not: most requests have one or none."""
    return [each for each in raw if _may_tell(each[0]) or (more and each[0].lower() in more)]


def identity(raw: RawHeaders, more: Collection[bytes] = ()) -> list[bytes]:
    """What names the caller wherever it is sent, as `name:value`, in a fixed order.

    Args:
        more: headers that name one too, in lower case.
    """
    named = [(key.lower(), value) for key, value in raw if _may_name(key) or key.lower() in more]
    names = {key for key, value in named if value}
    return sorted(
        key + b":" + value
        for key, value in named
        if key in NAMES or key in more or not any(names & known for known in _proved_by(key))
    )


def doubtful(
    raw: RawHeaders, query: bytes, more: Collection[bytes] = ()
) -> Mapping[str, list[bytes]]:
    """What names the caller only where the application refuses a request without it, by its kind.
    Cookies are the same in one header and in several: HTTP/2 splits them."""
    others = [
        (key.lower(), value) for key, value in raw if _is_doubtful(key) and key.lower() not in more
    ]
    found = {
        COOKIE: sorted(_cookies(raw)) if b"cookie" not in more else [],
        QUERY: [query] if query else [],
        OTHER: sorted(key + b":" + value for key, value in others),
    }
    return {kind: values for kind, values in found.items() if values}


def without(raw: RawHeaders, kinds: Collection[str]) -> list[tuple[bytes, bytes]]:
    """The headers less what names the caller by these kinds alone."""
    kept: list[tuple[bytes, bytes]] = []
    for key, value in raw:
        name = key.lower()
        if name == b"cookie" and COOKIE in kinds:
            if rest := b"; ".join(_crumbs(value, lambda crumb: not _is_name(crumb))):
                kept.append((key, rest))
        elif name == b"cookie" or OTHER not in kinds or not _is_doubtful(key):
            kept.append((key, value))
    return kept


def _remembered(judge: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """The same function of a header's name, with a memory: clients send the same few each time."""
    known = functools.lru_cache(maxsize=1024)(judge)
    return lambda key: known(key) if len(key) <= _LONGEST else judge(key)


@_remembered
def _proved_by(key: bytes) -> tuple[frozenset[bytes], ...]:
    """Beside which names it is a proof alone."""
    return tuple(known for proof, known in _PROOFS if proof.fullmatch(key))


@_remembered
def _may_be_secret(key: bytes) -> bool:
    return bool(_SECRET.search(key) or _proved_by(key))


@_remembered
def _may_tell(key: bytes) -> bool:
    return _may_name(key) or _is_doubtful(key) or key.lower() == b"cookie"


@_remembered
def _may_name(key: bytes) -> bool:
    return key.lower() in NAMES or _is_somebodys(key.lower())


def _is_somebodys(key: bytes) -> bool:
    if _proved_by(key):
        return True
    return bool(_OF_SOMEBODY.search(key)) and not _OF_ONE_REQUEST.search(key)


@_remembered
def _is_doubtful(key: bytes) -> bool:
    key = key.lower()
    if key in NAMES or _is_somebodys(key) or _OF_ONE_REQUEST.search(key):
        return False
    return bool(_OF_SOMETHING.search(key))


def _cookies(raw: RawHeaders) -> Iterator[bytes]:
    for key, value in raw:
        if key.lower() == b"cookie":
            yield from _crumbs(value, _is_name)


def _crumbs(value: bytes, wanted: Callable[[bytes], bool]) -> Iterator[bytes]:
    parts = (part.strip() for part in value.split(b";"))
    return (part for part in parts if part and wanted(part))


def _is_name(crumb: bytes) -> bool:
    return not _AFFINITY.match(crumb.partition(b"=")[0])
