"""The 3GPP AAA server on SWm (TS 29.273 §7) with an HSS and a subscriber database in the same process."""
