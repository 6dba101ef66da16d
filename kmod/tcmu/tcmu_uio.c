// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Userspace's door: a uio device for each channel. Reading it waits for commands (the bell, rung
 * by uio_event_notify()), writing to it says that some are finished, mapping it maps mailbox, ring
 * and data area, all of it or nothing.
 *
 * One process has it open at a time. When the last file or mapping is gone, what was kept with
 * KEEP_BUF is freed; commands in flight stay for the next one who opens it. When the device is
 * removed while it is open, uio does not tell us of the close: mappings then hold the channel.
 */
#include <linux/device.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/stringify.h>

#include "tcmu_private.h"

static struct device *root_device;

static struct tcmu_chan *to_chan(struct uio_info *info)
{
	return container_of(info, struct tcmu_chan, uio);
}

static void vma_open(struct vm_area_struct *vma)
{
	struct tcmu_chan *chan = vma->vm_private_data;

	kref_get(&chan->kref);
	tcmu_map_open(&chan->map, vma->vm_file->f_mapping);
}

static void vma_close(struct vm_area_struct *vma)
{
	struct tcmu_chan *chan = vma->vm_private_data;

	tcmu_map_close(&chan->map);
	tcmu_chan_put(chan);
}

static vm_fault_t vma_fault(struct vm_fault *vmf)
{
	struct tcmu_chan *chan = vmf->vma->vm_private_data;
	/* Who faults may be who has to carry out what reclaim would write. */
	unsigned int noio = memalloc_noio_save();
	vm_fault_t result = tcmu_map_fault(&chan->map, vmf);

	memalloc_noio_restore(noio);
	if (vmf->pgoff < chan->map.ring_pages)
		tcmu_ring_reached(&chan->ring, vmf->pgoff);
	return result;
}

static const struct vm_operations_struct vma_ops = {
	.open = vma_open,
	.close = vma_close,
	.fault = vma_fault,
};

static int mmap(struct uio_info *info, struct vm_area_struct *vma)
{
	struct tcmu_chan *chan = to_chan(info);

	if (vma->vm_pgoff || vma_pages(vma) != chan->map.npages)
		return -EINVAL;
	compat_vm_flags_set(vma, VM_DONTEXPAND | VM_DONTDUMP);
	vma->vm_private_data = chan;
	vma->vm_ops = &vma_ops;
	vma_open(vma);
	return 0;
}

static int open(struct uio_info *info, struct inode *inode)
{
	struct tcmu_chan *chan = to_chan(info);
	bool was_open;

	mutex_lock(&chan->ring_lock);
	was_open = chan->open;
	chan->open = true;
	mutex_unlock(&chan->ring_lock);
	return was_open ? -EBUSY : 0;
}

static int release(struct uio_info *info, struct inode *inode)
{
	struct tcmu_chan *chan = to_chan(info);

	mutex_lock(&chan->ring_lock);
	chan->open = false;
	mutex_unlock(&chan->ring_lock);
	tcmu_cmd_free_all_kept(chan);
	return 0;
}

static int irqcontrol(struct uio_info *info, s32 on)
{
	tcmu_cmd_reap(to_chan(info));
	return 0;
}

int tcmu_uio_register(struct tcmu_chan *chan)
{
	struct uio_info *info = &chan->uio;

	info->version = __stringify(TCMU_MAILBOX_VERSION);
	info->irq = UIO_IRQ_CUSTOM;
	info->irqcontrol = irqcontrol;
	info->mmap = mmap;
	info->open = open;
	info->release = release;
	info->mem[0].name = "tcm-user command & data buffer";
	info->mem[0].memtype = UIO_MEM_NONE; /* its pages have no one address */
	info->mem[0].size = (resource_size_t)chan->map.npages << PAGE_SHIFT;
	return uio_register_device(root_device, info);
}

int tcmu_uio_init(void)
{
	root_device = root_device_register("tcm_user");
	return PTR_ERR_OR_ZERO(root_device);
}

void tcmu_uio_exit(void)
{
	root_device_unregister(root_device);
}
