# SPDX-License-Identifier: GPL-2.0-or-later
"""Brings the kernel's target (LIO) to what the appliance declares. See docs/lio.md.

    state     what LIO exports, as plain data: the declared, the live, and a model that follows the live
    plan      the steps from one state to another; pure
    record    which of LIO's objects are ours, on disk
    configfs  the same verbs as the model, done for real through rtslib
    control   talks to the appliance
    service   puts them together
"""
