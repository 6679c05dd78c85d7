// Where a host's watcher can be reached: the addresses of its interfaces, and a port on all of them.
#pragma once

#include <sys/socket.h>

#include <cstdint>
#include <string>
#include <vector>

namespace ridgeline::comm::detail {

constexpr int kControlAddresses = 8;  // at most of one host

// Plain bytes: it travels.
struct ControlAddress {
  int32_t family;     // AF_INET, AF_INET6
  uint8_t bytes[16];  // the first 4 of an AF_INET one
};
struct ControlCard {
  int32_t port;
  int32_t count;
  ControlAddress addresses[kControlAddresses];
};

// An open socket that listens on a free port of all addresses. Owned.
class ControlListener {
 public:
  // `interface`: only addresses of the interface of that name are told to others; "" for all that are up. Loopback
  // only when `loopback`: where hosts are pretended on one machine. Throws Error, with the interfaces that there are.
  ControlListener(const std::string& interface, bool loopback);
  ~ControlListener();
  ControlListener(const ControlListener&) = delete;
  ControlListener& operator=(const ControlListener&) = delete;

  int file() const { return file_; }
  const ControlCard& card() const { return card_; }

 private:
  int file_ = -1;
  ControlCard card_{};
};

// A socket that listens on `port` of all addresses of this host, IPv4 and IPv6, and does not block; 0: a free port.
// The caller's. Throws Error, with what the system says.
int listening_socket(int port);
int port_of(int file);  // that a socket is bound to

// The address in a socket's name. False when others could not use it.
bool address_of(const sockaddr& socket, ControlAddress& address);
// For connect(2); how many bytes of it count.
socklen_t socket_address(const ControlAddress& address, int port, sockaddr_storage& into);
std::string text_of(const ControlAddress& address);  // "10.1.2.3"

}  // namespace ridgeline::comm::detail
