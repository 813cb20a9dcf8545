"""What the kernel calls the algorithms of an ESP suite: the attributes of an SA that hold its keys."""

from __future__ import annotations

from typing import Any

from protocols.ikev2.encryption import ENCRYPTION
from protocols.ikev2.integrity import INTEGRITY
from protocols.ikev2.registry import EncryptionId, IntegrityId
from protocols.ikev2.suites import EspSuite
from protocols.secret import Secret

CIPHERS = {
    EncryptionId.ENCR_AES_CBC: "cbc(aes)",
    EncryptionId.ENCR_AES_CTR: "rfc3686(ctr(aes))",
    EncryptionId.ENCR_3DES: "cbc(des3_ede)",
    EncryptionId.ENCR_NULL: "ecb(cipher_null)",
}
AEADS = {
    EncryptionId.ENCR_AES_GCM_8: "rfc4106(gcm(aes))",
    EncryptionId.ENCR_AES_GCM_12: "rfc4106(gcm(aes))",
    EncryptionId.ENCR_AES_GCM_16: "rfc4106(gcm(aes))",
    EncryptionId.ENCR_AES_CCM_8: "rfc4309(ccm(aes))",
    EncryptionId.ENCR_AES_CCM_12: "rfc4309(ccm(aes))",
    EncryptionId.ENCR_AES_CCM_16: "rfc4309(ccm(aes))",
    EncryptionId.ENCR_CHACHA20_POLY1305: "rfc7539esp(chacha20,poly1305)",
}
MACS = {
    IntegrityId.AUTH_HMAC_MD5_96: "hmac(md5)",
    IntegrityId.AUTH_HMAC_SHA1_96: "hmac(sha1)",
    IntegrityId.AUTH_HMAC_SHA2_256_128: "hmac(sha256)",
    IntegrityId.AUTH_HMAC_SHA2_384_192: "hmac(sha384)",
    IntegrityId.AUTH_HMAC_SHA2_512_256: "hmac(sha512)",
    IntegrityId.AUTH_AES_XCBC_96: "xcbc(aes)",
    IntegrityId.AUTH_AES_CMAC_96: "cmac(aes)",
}


def key_attributes(suite: EspSuite, encryption_key: Secret, integrity_key: Secret) -> dict[str, Any]:
    """The attributes of one direction; the encryption key ends with its salt or nonce, as the kernel wants it."""
    key = encryption_key.reveal()
    if suite.integrity is None:
        icv_bits = ENCRYPTION[suite.encryption].icv_length * 8
        return {"alg_aead": {"alg_name": AEADS[suite.encryption], "alg_key": key, "alg_icv_len": icv_bits}}
    return {
        "alg_crypt": {"alg_name": CIPHERS[suite.encryption], "alg_key": key},
        "alg_auth_trunc": {
            "alg_name": MACS[suite.integrity],
            "alg_key": integrity_key.reveal(),
            "alg_trunc_len": INTEGRITY[suite.integrity].icv_length * 8,
        },
    }
