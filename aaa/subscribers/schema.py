"""The tables of the subscriber database (SQLAlchemy 2 typed ORM); only migrations make them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ForeignKey,
    LargeBinary,
    MetaData,
    String,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}


class Base(DeclarativeBase):
    """Root of the tables; constraints have names so that a migration can drop them."""

    metadata = MetaData(naming_convention=NAMING)


class SubscriberRow(Base):
    """Authentication data and access permission of one IMSI."""

    __tablename__ = "subscribers"
    __table_args__ = (
        CheckConstraint("(op IS NULL) <> (opc IS NULL)", name="op_or_opc"),
        CheckConstraint("sequence >= 0", name="sequence_not_negative"),
    )

    imsi: Mapped[str] = mapped_column(String(15), primary_key=True)
    k: Mapped[bytes] = mapped_column(LargeBinary(16))
    op: Mapped[bytes | None] = mapped_column(LargeBinary(16))
    opc: Mapped[bytes | None] = mapped_column(LargeBinary(16))
    amf: Mapped[bytes] = mapped_column(LargeBinary(2))
    algorithm: Mapped[str] = mapped_column(String(16))
    sequence: Mapped[int] = mapped_column(BigInteger)
    enabled: Mapped[bool]
    non_3gpp_allowed: Mapped[bool]
    msisdn: Mapped[str | None] = mapped_column(String(15))
    apns: Mapped[list[ApnRow]] = relationship(
        back_populates="subscriber",
        cascade="all, delete-orphan",
        order_by="ApnRow.position",
        lazy="joined",  # one statement, so that a reader never sees APNs of another moment
    )


class ApnRow(Base):
    """One APN of one subscriber, in the order of provisioning."""

    __tablename__ = "apns"
    __table_args__ = (UniqueConstraint("imsi", "name"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    imsi: Mapped[str] = mapped_column(ForeignKey("subscribers.imsi", ondelete="CASCADE"))
    position: Mapped[int]
    name: Mapped[str] = mapped_column(String(100))
    pdn_type: Mapped[str] = mapped_column(String(8))
    ambr_uplink_bits: Mapped[int] = mapped_column(BigInteger)
    ambr_downlink_bits: Mapped[int] = mapped_column(BigInteger)
    static_ipv4: Mapped[str | None] = mapped_column(String(15))
    is_default: Mapped[bool]
    subscriber: Mapped[SubscriberRow] = relationship(back_populates="apns")
