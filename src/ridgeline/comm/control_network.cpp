#include "ridgeline/comm/control_network.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "ridgeline/base/error.h"

namespace ridgeline::comm::detail {
namespace {

// IPv4 before IPv6, loopback last: the order in which others try them.
std::vector<ControlAddress> addresses_of(const std::string& interface, bool loopback) {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) throw system_error("cannot list this host's network interfaces", errno);
  const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(list, ::freeifaddrs);
  std::vector<std::string> names;
  std::vector<ControlAddress> four, six, local;
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_UP) == 0) continue;
    ControlAddress address{};
    if (!address_of(*entry->ifa_addr, address)) continue;
    const bool is_local = (entry->ifa_flags & IFF_LOOPBACK) != 0;
    if (std::find(names.begin(), names.end(), entry->ifa_name) == names.end()) names.emplace_back(entry->ifa_name);
    if (interface.empty() ? is_local && !loopback : interface != entry->ifa_name) continue;
    (is_local ? local : address.family == AF_INET ? four : six).push_back(address);
  }
  if (!interface.empty() && std::find(names.begin(), names.end(), interface) == names.end()) {
    char host[64] = {};  // other hosts may have it
    ::gethostname(host, sizeof(host) - 1);
    throw Error(fmt::format("RIDGELINE_INTERFACE: host {} has no interface '{}' that is up and has an address", host,
                            interface),
                fmt::format("It has: {}.", fmt::join(names, ", ")));
  }
  four.insert(four.end(), six.begin(), six.end());
  four.insert(four.end(), local.begin(), local.end());
  if (four.size() > kControlAddresses) four.resize(kControlAddresses);
  return four;
}

}  // namespace

bool address_of(const sockaddr& socket, ControlAddress& address) {
  address = {};
  address.family = socket.sa_family;
  if (socket.sa_family == AF_INET) {
    std::memcpy(address.bytes, &reinterpret_cast<const sockaddr_in&>(socket).sin_addr, 4);
    return true;
  }
  if (socket.sa_family != AF_INET6) return false;
  const in6_addr& six = reinterpret_cast<const sockaddr_in6&>(socket).sin6_addr;
  std::memcpy(address.bytes, &six, 16);
  return !IN6_IS_ADDR_LINKLOCAL(&six);  // it means nothing on another host
}

int listening_socket(int port) {
  constexpr int kWaiting = 4096;
  int problem = 0;
  for (const int family : {AF_INET6, AF_INET}) {  // the first takes both, where the system has IPv6
    const int file = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (file < 0) continue;
    sockaddr_storage any{};
    const ControlAddress everywhere{.family = family, .bytes = {}};
    const socklen_t length = socket_address(everywhere, port, any);
    const int off = 0, on = 1;
    if (family == AF_INET6) ::setsockopt(file, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
    // A port of choice may still be held by the end of an earlier run's connections.
    if (port != 0) ::setsockopt(file, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (::bind(file, reinterpret_cast<const sockaddr*>(&any), length) == 0 && ::listen(file, kWaiting) == 0) {
      return file;
    }
    problem = errno;
    ::close(file);
    if (problem == EADDRINUSE) break;
  }
  throw system_error(port == 0 ? "cannot listen for the other hosts" : fmt::format("cannot listen on port {}", port),
                     problem);
}

int port_of(int file) {
  sockaddr_storage bound{};
  socklen_t length = sizeof(bound);
  if (::getsockname(file, reinterpret_cast<sockaddr*>(&bound), &length) != 0) {
    throw system_error("cannot learn the port that this host listens on", errno);
  }
  return ntohs(bound.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(bound).sin6_port
                                           : reinterpret_cast<const sockaddr_in&>(bound).sin_port);
}

ControlListener::ControlListener(const std::string& interface, bool loopback) {
  const std::vector<ControlAddress> addresses = addresses_of(interface, loopback);
  file_ = listening_socket(0);
  card_.port = port_of(file_);
  card_.count = static_cast<int32_t>(addresses.size());
  std::copy(addresses.begin(), addresses.end(), card_.addresses);
}

ControlListener::~ControlListener() {
  if (file_ >= 0) ::close(file_);
}

socklen_t socket_address(const ControlAddress& address, int port, sockaddr_storage& into) {
  into = {};
  if (address.family == AF_INET) {
    auto& four = reinterpret_cast<sockaddr_in&>(into);
    four.sin_family = AF_INET;
    four.sin_port = htons(static_cast<uint16_t>(port));
    std::memcpy(&four.sin_addr, address.bytes, 4);
    return sizeof(four);
  }
  auto& six = reinterpret_cast<sockaddr_in6&>(into);
  six.sin6_family = AF_INET6;
  six.sin6_port = htons(static_cast<uint16_t>(port));
  std::memcpy(&six.sin6_addr, address.bytes, 16);
  return sizeof(six);
}

std::string text_of(const ControlAddress& address) {
  char text[INET6_ADDRSTRLEN] = {};
  ::inet_ntop(address.family, address.bytes, text, sizeof(text));
  return text;
}

}  // namespace ridgeline::comm::detail
