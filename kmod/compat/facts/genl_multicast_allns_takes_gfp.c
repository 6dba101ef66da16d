// SPDX-License-Identifier: GPL-2.0-or-later
#include <net/genetlink.h>

int fact(const struct genl_family *family, struct sk_buff *skb);
int fact(const struct genl_family *family, struct sk_buff *skb)
{
	return genlmsg_multicast_allns(family, skb, 0, 0, GFP_KERNEL);
}
