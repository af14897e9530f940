//! A user other than root gets a namespace in which it is root, over its own number and those that /etc/subuid gives it.
