# SPDX-License-Identifier: GPL-2.0-or-later
# Makes each line a string literal of C.
s/[\\"]/\\&/g
s/.*/"&\\n"/
