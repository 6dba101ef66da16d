// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The module target_core_user: it registers LIO's backend `user`. docs/tcmu.md says what it does
 * that the kernel's own module of this name does not; the binary interface is the same.
 */
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>

#include "tcmu_private.h"

/* All we keep of an HBA is its number. */
static int attach_hba(struct se_hba *hba, u32 host_id)
{
	hba->hba_ptr = (void *)(uintptr_t)host_id;
	return 0;
}

static void detach_hba(struct se_hba *hba)
{
	hba->hba_ptr = NULL;
}

static struct se_dev_plug *plug_device(struct se_device *se_dev)
{
	struct tcmu_dev *dev = to_tcmu_dev(se_dev);

	return test_and_set_bit(TCMU_DEV_PLUGGED, &dev->flags) ? NULL : &dev->plug;
}

static void unplug_device(struct se_dev_plug *plug)
{
	struct tcmu_dev *dev = to_tcmu_dev(plug->se_dev);

	clear_bit(TCMU_DEV_PLUGGED, &dev->flags);
	uio_event_notify(&dev->chan->uio);
}

static sense_reason_t parse_cdb(struct se_cmd *se_cmd)
{
	return passthrough_parse_cdb(se_cmd, tcmu_cmd_queue);
}

/* The number of the last block. */
static sector_t get_blocks(struct se_device *se_dev)
{
	u64 size = READ_ONCE(to_tcmu_dev(se_dev)->dev_size);
	u32 block = se_dev->dev_attrib.block_size;

	return block && size >= block ? div_u64(size - block, block) : 0;
}

static struct target_backend_ops backend_ops = {
	.name = "user",
	.owner = THIS_MODULE,
	.transport_flags_default = TRANSPORT_FLAG_PASSTHROUGH,
	.transport_flags_changeable = TRANSPORT_FLAG_PASSTHROUGH_PGR |
				      TRANSPORT_FLAG_PASSTHROUGH_ALUA,
	.attach_hba = attach_hba,
	.detach_hba = detach_hba,
	.alloc_device = tcmu_device_alloc,
	.configure_device = tcmu_device_configure,
	.destroy_device = tcmu_device_destroy,
	.free_device = tcmu_device_free,
	.plug_device = plug_device,
	.unplug_device = unplug_device,
	.parse_cdb = parse_cdb,
	.tmr_notify = tcmu_tmr_notify,
	.set_configfs_dev_params = tcmu_configfs_set,
	.show_configfs_dev_params = tcmu_configfs_show,
	.get_device_type = sbc_get_device_type,
	.get_blocks = get_blocks,
	.tb_dev_action_attrs = tcmu_action_attrs,
};

static int __init tcmu_init(void)
{
	int err = tcmu_cmd_init();

	if (err)
		return err;
	err = tcmu_shrink_init();
	if (err)
		goto out_cmd;
	err = tcmu_uio_init();
	if (err)
		goto out_shrink;
	err = tcmu_nl_init();
	if (err)
		goto out_uio;
	err = -ENOMEM;
	backend_ops.tb_dev_attrib_attrs = tcmu_configfs_attribs();
	if (!backend_ops.tb_dev_attrib_attrs)
		goto out_nl;
	err = transport_backend_register(&backend_ops);
	if (err)
		goto out_attribs;
	return 0;

out_attribs:
	kfree(backend_ops.tb_dev_attrib_attrs);
out_nl:
	tcmu_nl_exit();
out_uio:
	tcmu_uio_exit();
out_shrink:
	tcmu_shrink_exit();
out_cmd:
	tcmu_cmd_exit();
	return err;
}

static void __exit tcmu_exit(void)
{
	target_backend_unregister(&backend_ops);
	rcu_barrier(); /* devices are freed by calls of ours */
	kfree(backend_ops.tb_dev_attrib_attrs);
	tcmu_nl_exit();
	tcmu_uio_exit();
	tcmu_shrink_exit();
	tcmu_cmd_exit();
}

module_init(tcmu_init);
module_exit(tcmu_exit);

MODULE_DESCRIPTION("LIO backstores served by processes, in memory that grows and shrinks");
MODULE_LICENSE("GPL");
MODULE_VERSION(EBB_VERSION);
