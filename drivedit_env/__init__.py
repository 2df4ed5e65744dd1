"""Online: the Gymnasium environments and the shipped worlds."""
