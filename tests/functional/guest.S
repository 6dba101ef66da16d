/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The smallest guest: a boot sector that proves that its disk works. The BIOS has read it from the disk. It reads
 * sector 1 and prints it (a string), writes what it printed to sector 2, and turns the machine off.
 */
	.code16
	.globl _start
_start:	ljmp $0, $1f
1:	xor %ax, %ax
	mov %ax, %ds
	mov %ax, %es
	mov %ax, %ss
	mov $_start, %sp
	mov $0x42, %ah		/* read; %dl is the disk */
	mov $packet, %si
	int $0x13
	jc off
	movb $2, packet + 8
	mov $0x4300, %ax	/* write */
	mov $packet, %si
	int $0x13
	jc off
	mov $buffer, %si
2:	mov $0x3fd, %dx		/* the serial port takes a byte */
	in %dx, %al
	test $0x20, %al
	jz 2b
	lodsb
	test %al, %al
	jz off
	mov $0x3f8, %dx
	out %al, %dx
	jmp 2b
off:	mov $0x604, %dx		/* PM1a control of QEMU's machines, where SeaBIOS puts it: S5 */
	mov $0x2000, %ax
	out %ax, %dx
3:	hlt
	jmp 3b

packet:	.word 16, 1, buffer, 0	/* one sector to the buffer */
	.quad 1			/* the sector's number */
	.org 510
	.word 0xaa55
buffer:				/* behind the boot sector in memory */
