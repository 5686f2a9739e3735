"""Compact MoCoGAN and VGAN, written from their papers, for Tab. 2; nothing else imports them.

Both are about half as wide as published, so that a processor trains them in the time that ours
gets; widths are settings of the constructors.
"""

from __future__ import annotations
