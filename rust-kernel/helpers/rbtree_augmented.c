// SPDX-License-Identifier: GPL-2.0

#include <linux/rbtree_augmented.h>

__rust_helper struct rb_node *rust_helper_rb_parent(const struct rb_node *node)
{
	return rb_parent(node);
}

__rust_helper bool rust_helper_rb_is_black(const struct rb_node *node)
{
	return rb_is_black(node);
}

__rust_helper void rust_helper_rb_set_parent_color(struct rb_node *node,
						   struct rb_node *parent,
						   int color)
{
	rb_set_parent_color(node, parent, color);
}

__rust_helper void
rust_helper_rb_erase_augmented(struct rb_node *node, struct rb_root *root,
			       const struct rb_augment_callbacks *augment)
{
	rb_erase_augmented(node, root, augment);
}
