"""IKE_AUTH (RFC 7296 §1.2, §2.15, §2.16; RFC 5998): the exchange that authenticates both ends.

With EAP::

    SK {IDi, [CERTREQ,] [IDr,] CP, SAi2, TSi, TSr, N(..)}  -->
                      <--  SK {IDr, [CERT*, AUTH,] EAP}
    SK {EAP}  -->                                             (as often as the method needs)
                      <--  SK {EAP(success)}
    SK {AUTH}  -->
                      <--  SK {AUTH, CP, SAr2, TSi, TSr, N(..)}

With a pre-shared key or a certificate::

    SK {IDi, [CERT*,] [CERTREQ,] [IDr,] AUTH, CP, SAi2, TSi, TSr, N(..)}  -->
                      <--  SK {IDr, [CERT*,] AUTH, CP, SAr2, TSi, TSr, N(..)}

Left out here: several authentications one after another (RFC 4739).
"""

from protocols.ikev2.tasks.ike_auth.initiator import Authentication
from protocols.ikev2.tasks.ike_auth.responder import Authenticator, process_request

__all__ = ["Authentication", "Authenticator", "process_request"]
