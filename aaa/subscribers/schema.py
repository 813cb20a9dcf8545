"""The tables of the subscriber database (SQLAlchemy 2 typed ORM), as ``revisions`` makes them and migrations lead to.

``k``, ``op`` and ``opc`` hold octets in clear where ``key_version`` is null, otherwise sealed under the master key
of that version (``aaa.subscribers.master_keys``).
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    LargeBinary,
    MetaData,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ix": "ix_%(column_0_label)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}
SEALED_LENGTH = 64  # 32 octets of TOP, a nonce and a tag, rounded up


class Base(DeclarativeBase):
    """Root of the tables; constraints have names so that a migration can drop them."""

    metadata = MetaData(naming_convention=NAMING)


class SubscriberRow(Base):
    """Authentication data and access permission of one IMSI."""

    __tablename__ = "subscribers"
    __table_args__ = (
        CheckConstraint("op IS NULL OR opc IS NULL", name="op_or_opc"),
        CheckConstraint("sequence >= 0", name="sequence_not_negative"),
    )

    imsi: Mapped[str] = mapped_column(String(15), primary_key=True)
    k: Mapped[bytes] = mapped_column(LargeBinary(SEALED_LENGTH))
    op: Mapped[bytes | None] = mapped_column(LargeBinary(SEALED_LENGTH))
    opc: Mapped[bytes | None] = mapped_column(LargeBinary(SEALED_LENGTH))
    key_version: Mapped[int | None] = mapped_column(index=True)
    amf: Mapped[bytes] = mapped_column(LargeBinary(2))
    algorithm: Mapped[str] = mapped_column(String(16))
    tuak_iterations: Mapped[int] = mapped_column(server_default=text("1"))
    res_length: Mapped[int] = mapped_column(server_default=text("8"))
    sqn_generation: Mapped[str] = mapped_column(String(24), server_default=text("'not-time-based'"))
    ind_bits: Mapped[int] = mapped_column(server_default=text("5"))
    sequence: Mapped[int] = mapped_column(BigInteger)
    clock_difference: Mapped[int | None] = mapped_column(BigInteger)
    enabled: Mapped[bool]
    non_3gpp_allowed: Mapped[bool]
    msisdn: Mapped[str | None] = mapped_column(String(15))
    roaming_allowed: Mapped[bool] = mapped_column(server_default=true())
    visited_networks: Mapped[str] = mapped_column(Text, server_default=text("''"))  # PLMNs, a comma between them
    wlan_allowed: Mapped[bool] = mapped_column(server_default=true())
    ambr_uplink_bits: Mapped[int | None] = mapped_column(BigInteger)
    ambr_downlink_bits: Mapped[int | None] = mapped_column(BigInteger)
    session_timeout: Mapped[int | None] = mapped_column(BigInteger)
    imei: Mapped[str | None] = mapped_column(String(16))
    apns: Mapped[list[ApnRow]] = relationship(
        back_populates="subscriber",
        cascade="all, delete-orphan",
        order_by="ApnRow.position",
    )


class ApnRow(Base):
    """One APN of one subscriber, in the order of provisioning."""

    __tablename__ = "apns"
    __table_args__ = (UniqueConstraint("imsi", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    imsi: Mapped[str] = mapped_column(ForeignKey("subscribers.imsi", ondelete="CASCADE"))
    position: Mapped[int]
    name: Mapped[str] = mapped_column(String(100))
    pdn_type: Mapped[str] = mapped_column(String(16))
    ambr_uplink_bits: Mapped[int] = mapped_column(BigInteger)
    ambr_downlink_bits: Mapped[int] = mapped_column(BigInteger)
    static_ipv4: Mapped[str | None] = mapped_column(String(15))
    static_ipv6: Mapped[str | None] = mapped_column(String(43))
    qci: Mapped[int] = mapped_column(server_default=text("9"))
    priority_level: Mapped[int] = mapped_column(server_default=text("8"))
    pre_emption_capability: Mapped[bool] = mapped_column(server_default=false())
    pre_emption_vulnerability: Mapped[bool] = mapped_column(server_default=true())
    is_default: Mapped[bool]
    visited_dynamic_address: Mapped[bool] = mapped_column(server_default=false())
    pgw: Mapped[str | None] = mapped_column(String(255))
    subscriber: Mapped[SubscriberRow] = relationship(back_populates="apns")


class MasterKeyRow(Base):
    """A version of the master key that was used here, with what tells the right key from a wrong one."""

    __tablename__ = "master_keys"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    witness: Mapped[bytes] = mapped_column(LargeBinary(SEALED_LENGTH))
