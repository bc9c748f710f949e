"""Which headers tell one caller from another. Pure, and data where it can be.

Two questions, two answers: what may carry a secret (it is sealed and never kept) and what names
the caller (streams and sessions belong to it). A missed name lets two people look alike; a header
that changes from request to request, taken for a name, costs its sender every stream.
"""

import re
from collections.abc import Collection, Iterator

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
# It differs between any two requests.
_OF_ONE_REQUEST = re.compile(rb"signature")
# What balancers and the like tell browsers apart by: it says which server, not who. Only names that
# no application gives to a cookie of its own.
_AFFINITY = re.compile(
    rb"^(?:AWSALB.*|AWSELB.*|GCLB|GCILB|ARRAffinity.*|ApplicationGatewayAffinity.*|BIGipServer.*"
    rb"|__cf_bm|__cflb|__cfruid|_cfuvid|cf_clearance|INGRESSCOOKIE"
    rb"|visid_incap.*|incap_ses.*|nlbi_.*|ak_bmsc|bm_sv|_ga.*|_gid|XSRF-TOKEN|csrftoken)$"
)


def secrets(raw: RawHeaders) -> list[bytes]:
    """Every header that may carry a secret, as `name:value`, in a fixed order."""
    return sorted(
        key.lower() + b":" + value
        for key, value in raw
        if _may_be_secret(key.lower()) or key.lower() in NAMES
    )


def identity(raw: RawHeaders, more: Collection[bytes] = ()) -> list[bytes]:
    """What names the caller, as `name:value`, in a fixed order.

    Args:
        more: headers that name one too, in lower case.
    """
    named = [(key.lower(), value) for key, value in raw]
    names = {key for key, value in named if value}
    return sorted(
        key + b":" + value
        for key, value in _without_affinity(named)
        if key in NAMES
        or key in more
        or (
            _may_be_secret(key)
            and not _OF_ONE_REQUEST.search(key)
            and not any(proof.fullmatch(key) and names & known for proof, known in _PROOFS)
        )
    )


def _may_be_secret(key: bytes) -> bool:
    return bool(_SECRET.search(key)) or any(proof.fullmatch(key) for proof, _ in _PROOFS)


def _without_affinity(named: RawHeaders) -> Iterator[tuple[bytes, bytes]]:
    for key, value in named:
        if key != b"cookie":
            yield key, value
            continue
        cookies = [part.strip() for part in value.split(b";")]
        kept = [part for part in cookies if part and not _AFFINITY.match(part.partition(b"=")[0])]
        if kept:
            yield key, b"; ".join(sorted(kept))
